"""Operations and collectives counted from the text of compiled programs, against counts by hand."""

from __future__ import annotations

import pytest

from medvista_jax.runtime.aot.hlo import cost, nbytes

NESTED = """
HloModule jit_f, entry_computation_layout={(f32[8,16]{1,0})->f32[8,4]{1,0}}

%fused (p.1: f32[8,16], p.2: f32[16,4]) -> f32[8,4] {
  %p.1 = f32[8,16]{1,0} parameter(0)
  %p.2 = f32[16,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,4]{1,0} dot(%p.1, %p.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (arg: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %arg = (s32[], f32[8,16]{1,0}) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%arg), index=1
  %w = f32[16,4]{1,0} constant({...})
  %f = f32[8,4]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  %g = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%f), replica_groups={{0,1,2,3}}, dimensions={0}
  %d = f32[32,4]{1,0} all-gather-done(%g)
  ROOT %t = (s32[], f32[8,16]{1,0}) tuple(%i, %x)
}

%five (arg: (s32[], f32[8,16])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  %arg.5 = (s32[], f32[8,16]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg.5), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%until_done (arg: (s32[], f32[8,16])) -> pred[] {
  %n.2 = s32[] constant(7)
  %lt.2 = pred[] compare(%i.2, %n.2), direction=LT
  ROOT %both = pred[] and(%lt.2, %someone)
}

%open_body (arg: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %w.2 = (s32[]) while(%arg), condition=%five, body=%body
  ROOT %t.2 = (s32[], f32[8,16]{1,0}) tuple(%i, %x)
}

ENTRY %main (p: f32[8,16]) -> f32[8,4] {
  %p = f32[8,16]{1,0} parameter(0)
  %o = (s32[], f32[8,16]{1,0}) while(%p), condition=%until_done, body=%open_body
  %r = bf16[2,3]{1,0} all-reduce(%h), to_apply=%add
  %c = f32[8,4]{1,0} conditional(%k, %p, %p), branch_computations={%cheap, %dear}
  ROOT %s = f32[8,4]{1,0} copy(%c)
}

%cheap (q: f32[8,16]) -> f32[8,4] {
  ROOT %z = f32[8,4]{1,0} constant({...})
}

%dear (q: f32[8,16]) -> f32[8,4] {
  %q = f32[8,16]{1,0} parameter(0)
  %v = f32[16,4]{1,0} constant({...})
  ROOT %y = f32[8,4]{1,0} fusion(%q, %v), kind=kOutput, calls=%fused
}
"""


def test_loops_branches_and_collectives():
    found = cost(NESTED)
    product = 2 * 8 * 16 * 4
    assert found.flops == 5 * product + product  # five turns of the inner loop, and the dearer branch
    assert found.open_loops == 1
    assert found.collectives == {"all-gather": (5.0, 5.0 * 32 * 4 * 4), "all-reduce": (1.0, 2 * 3 * 2.0)}


def in_entry(line: str) -> str:
    return f"ENTRY %main (p: f32[1]) -> f32[1] {{\n{line}\n}}\n"


@pytest.mark.parametrize(
    ("line", "flops"),
    [
        (  # a plain product as the TPU compiler writes it: batch is b, contracted is f and i
            """  %a = bf16[64,128]{1,0} parameter(0)
  %b = bf16[128,32]{1,0} parameter(1)
  ROOT %c = bf16[64,32]{1,0} convolution(%a, %b), dim_labels=bf_io->bf""",
            2 * 64 * 128 * 32,
        ),
        (  # a product for each of 4 members of a batch axis: a window of 4 of which one position meets an input
            """  %a = bf16[4,64,128]{2,1,0} parameter(0)
  %b = bf16[4,128,32]{2,1,0} parameter(1)
  ROOT %c = bf16[4,64,32]{2,1,0} convolution(%a, %b), window={size=4 stride=3 pad=0_0 lhs_dilate=4}, """
            "dim_labels=0bf_0io->0bf",
            2 * 4 * 64 * 128 * 32,
        ),
        (  # a real convolution, 3 x 3 with a border of one: 3n - 2 pairs along each side
            """  %a = f32[2,8,8,3]{3,2,1,0} parameter(0)
  %b = f32[3,3,3,16]{3,2,1,0} parameter(1)
  ROOT %c = f32[2,8,8,16]{3,2,1,0} convolution(%a, %b), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f""",
            2 * 2 * 16 * 3 * 22 * 22,
        ),
        (
            """  %a = f32[5,8,16]{2,1,0} parameter(0)
  %b = f32[5,16,4]{2,1,0} parameter(1)
  ROOT %c = f32[5,8,4]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, """
            "rhs_contracting_dims={1}",
            2 * 5 * 8 * 16 * 4,
        ),
    ],
)
def test_products(line, flops):
    assert cost(in_entry(line)).flops == flops


WINDOWED = """
%body (arg: (f32[8,16], u32[])) -> (f32[8,16], u32[]) {
  %arg = (f32[8,16]{1,0}, u32[]) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%arg), index=0
  %i = u32[] get-tuple-element(%arg), index=1
  %two = u32[] constant(2)
  %g = f32[8,16]{1,0} all-gather(%x), dimensions={0}
  %next = u32[] add(%i, %two), metadata={op_name="dot"}
  ROOT %t = (f32[8,16]{1,0}, u32[]) tuple(%g, %next)
}

%cond (arg.2: (f32[8,16], u32[])) -> pred[] {
  %five = u32[]{:T(128)} constant(5)
  %arg.2 = (f32[8,16]{1,0}, u32[]) parameter(0)
  %i.2 = u32[]{:T(128)} get-tuple-element(%arg.2), index=1
  ROOT %lt = pred[]{:T(512)} compare(%i.2, %five), direction=LT
}

ENTRY %main (p: f32[8,16]) -> f32[8,16] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %w = (f32[8,16]{1,0}, u32[]) while(%p), condition=%cond, body=%body
}
"""


def test_a_loop_that_counts_by_twos():
    found = cost(WINDOWED)
    assert found.open_loops == 0 and found.collectives["all-gather"][0] == 3  # 0, 2, 4


@pytest.mark.parametrize(
    ("name", "keys", "products"),
    [
        ("splash_mqa_fwd_segmented_residuals.2", "2,4096,128", 2),
        ("splash_mqa_fwd_segmented_residuals.3", "4096,128", 2),  # one head of keys on a chip
        ("splash_mqa_dq_segmented_no_residuals.1", "4096,128", 3),
        ("splash_mha_dkv_segmented_no_residuals", "2,4096,128", 4),
        ("another_kernel", "4096,128", 0),
    ],
)
def test_products_of_the_splash_kernels(name, keys, products):
    queries = "2,4,4096,128" if keys.startswith("2,") else "4,4096,128"
    text = in_entry(
        f"""  %m = s8[1,8,8]{{2,1,0}} parameter(0)
  %q = bf16[{queries}]{{0}} parameter(1)
  %k = bf16[{keys}]{{0}} parameter(2)
  %ids = s32[4096,128]{{1,0}} parameter(3)
  %{name} = (f32[512,128]{{1,0}}, bf16[{queries}]{{0}}) custom-call(%m, %q, %k, %k, %ids), """
        'custom_call_target="tpu_custom_call"'
    )
    heads = 8 if keys.startswith("2,") else 4
    found = cost(text)
    assert found.flops == found.kernels == products * 2 * heads * 4096 * 4096 * 128 / 2


def test_bytes_of_a_type():
    assert nbytes("(bf16[2,3]{1,0:T(8,128)}, f32[4]{0}, pred[])") == 12 + 16 + 1
