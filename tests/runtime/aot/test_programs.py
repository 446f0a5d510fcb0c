"""What a plan's programs are made of, without a compiler: slots add up, any hub folder will do."""

from __future__ import annotations

import json

import pytest

from medvista_jax.models.families import FAMILIES, read_config
from medvista_jax.models.tensor_files import BadCheckpoint
from medvista_jax.rollout.record import total_slots
from medvista_jax.runtime.aot.hlo import cost, kernels
from medvista_jax.runtime.aot.plans import PLANS, SMALL, Plan
from medvista_jax.runtime.aot.programs import setting_of
from tests.parity.published import CONFIGS


@pytest.mark.parametrize("plan", [*PLANS.values(), SMALL], ids=lambda plan: f"{plan.model} {plan.topology}")
def test_turns_fill_the_context(plan):
    setting = setting_of(plan, None)
    assert total_slots(setting.environment, setting.prompt_slots) == plan.context
    assert setting.environment.turns == plan.crops + 1
    assert setting.environment.token_bytes[0].shape[0] == setting.model.vocab_size
    assert setting.environment.stops.table.shape[1] == setting.model.vocab_size


def test_a_folder_with_a_configuration_is_a_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["Qwen3-VL-2B"]))
    model = setting_of(Plan(str(tmp_path)), None).model
    assert (model.config, model.dtype) == (read_config(FAMILIES["qwen3_vl"], tmp_path), "bfloat16")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(BadCheckpoint, match="'llava' is not supported"):
        setting_of(Plan(str(tmp_path)), None)


@pytest.mark.parametrize(("kernel", "products"), [("fwd", 2), ("dkv", 4), ("dq", 3)])
def test_operations_of_the_splash_kernels(kernel, products):
    """Whatever stands in the kernel's binary: 4 query heads over one KV head, 2 of these, 256 slots of width 128."""
    call = 'custom_call_target="tpu_custom_call", backend_config={"body":"AdqBdkvC"}'
    text = f"""ENTRY %main (p: f32[1]) -> f32[1] {{
  %m = s8[1,2,2]{{2,1,0}} parameter(0)
  %q = bf16[2,4,256,128]{{3,2,1,0}} parameter(1)
  %k = bf16[2,256,128]{{2,1,0}} parameter(2)
  ROOT %splash_mqa_{kernel}_segmented.3 = bf16[2,4,256,128]{{3,2,1,0}} custom-call(%m, %q, %k, %k), {call}
}}
"""
    assert cost(text).flops == products * 2 * (2 * 4 * 256 * 128) * 256 / 2
    assert kernels(text, "splash") == 1 and kernels(text, "flash") == 0
