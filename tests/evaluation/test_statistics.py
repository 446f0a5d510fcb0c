import numpy as np
import pytest
from scipy import stats

from medvista_jax.evaluation.statistics import (
    mcnemar,
    mcnemar_exact,
    mean_over_seeds,
    paired_bootstrap,
    wilson_interval,
)


def test_wilson_against_the_literature():
    # Newcombe, Statistics in Medicine 17:857 (1998), table I, method 3.
    for correct, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_against_scipy():
    for correct, n in [(0, 1), (1, 1), (5, 10), (997, 1024), (256, 1024), (1024, 1024)]:
        theirs = stats.binomtest(correct, n).proportion_ci(method="wilson")
        assert wilson_interval(correct, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_at_the_edges():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 5)[0] == 0.0 and wilson_interval(5, 5)[1] == 1.0
    with pytest.raises(ValueError, match="6 right of 5"):
        wilson_interval(6, 5)


def vectors(both, a_only, b_only, neither):
    a = [1] * both + [1] * a_only + [0] * b_only + [0] * neither
    b = [1] * both + [0] * a_only + [1] * b_only + [0] * neither
    return np.array(a), np.array(b)


def test_mcnemar_against_literals():
    # 6 against 1 of 7: 2 (1 + 7) / 128.
    assert mcnemar_exact(*vectors(20, 6, 1, 3)) == 0.125
    # The example of the statsmodels documentation.
    assert mcnemar_exact(*vectors(101, 121, 59, 33)) == pytest.approx(4.434449263755176e-06, rel=1e-9)
    assert mcnemar_exact(*vectors(3, 0, 0, 2)) == 1.0
    assert mcnemar_exact(*vectors(0, 4, 4, 0)) == 1.0
    a, b = vectors(0, 1500, 1300, 0)
    assert mcnemar_exact(a, b) == pytest.approx(stats.binomtest(1300, 2800).pvalue, rel=1e-9)
    assert mcnemar_exact(a, b) == mcnemar_exact(b, a)


def test_bootstrap_keeps_the_pairing():
    # Both at 50 %; where they disagree rarely the interval is narrow, where they are opposite it is wide.
    close = paired_bootstrap(*vectors(490, 20, 10, 480))
    assert close.mean == pytest.approx(0.01)
    # Normal approximation: sd = sqrt((30/1000 - 0.01^2) / 1000).
    sd = np.sqrt((0.03 - 0.0001) / 1000)
    assert (close.low, close.high) == pytest.approx((0.01 - 1.96 * sd, 0.01 + 1.96 * sd), abs=1e-3)
    assert close.not_better == pytest.approx(stats.norm.sf(0.01 / sd), abs=0.02)
    wide = paired_bootstrap(*vectors(0, 510, 490, 0))
    assert wide.high - wide.low > 5 * (close.high - close.low)


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.8, rng.random(300) < 0.7
    ours = paired_bootstrap(a, b)
    theirs = stats.bootstrap(
        (a.astype(float) - b,), np.mean, method="percentile", n_resamples=5000, rng=1
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert paired_bootstrap(a, b) == ours


def test_unpaired_input_is_refused():
    with pytest.raises(ValueError, match="same items"):
        paired_bootstrap(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="0 or 1"):
        mcnemar_exact(np.array([0.5]), np.array([1]))
    with pytest.raises(ValueError, match="no items"):
        paired_bootstrap(np.ones(0), np.ones(0))


def test_mcnemar_against_the_literature():
    # Fagerland et al., BMC Med Res Methodol 13:91 (2013), table 1: 1 and 7 discordant pairs of 21.
    pairs = vectors(1, 1, 7, 12)
    for method, p in (("exact", 0.0703), ("mid-p", 0.0391), ("chi2", 0.0771)):
        found = mcnemar(*pairs, method)
        assert (found.a_only, found.b_only) == (1, 7) and found.p == pytest.approx(p, abs=5e-5)
    # statsmodels' documentation: mcnemar(table, exact=False, correction=True) of the same table as above.
    assert mcnemar(*vectors(101, 121, 59, 33), "chi2").p == pytest.approx(5.450094825427117e-06, rel=1e-9)


def test_mcnemar_against_scipy():
    for a_only, b_only in ((3, 9), (0, 6), (12, 12), (40, 25), (1, 0)):
        pairs, n, k = vectors(5, a_only, b_only, 4), a_only + b_only, min(a_only, b_only)
        mid = 1.0 if a_only == b_only else 2 * stats.binom.cdf(k, n, 0.5) - stats.binom.pmf(k, n, 0.5)
        assert mcnemar(*pairs).p == pytest.approx(stats.binomtest(k, n).pvalue, rel=1e-9)
        assert mcnemar(*pairs, "mid-p").p == pytest.approx(mid, rel=1e-9)
        chi2 = max(abs(a_only - b_only) - 1, 0) ** 2 / n
        assert mcnemar(*pairs, "chi2").p == pytest.approx(stats.chi2.sf(chi2, 1), rel=1e-9)
    assert mcnemar(*vectors(3, 0, 0, 2), "chi2").p == mcnemar(*vectors(3, 0, 0, 2), "mid-p").p == 1.0
    with pytest.raises(ValueError, match="not exact, mid-p or chi2"):
        mcnemar(*vectors(1, 1, 1, 1), "yates")


def test_mean_over_seeds_against_scipy():
    values = [0.551, 0.547, 0.56, 0.539]
    found = mean_over_seeds(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert found.mean == pytest.approx(0.54925) and found.deviation == pytest.approx(stats.tstd(values))
    one = mean_over_seeds([0.5])
    assert (one.mean, one.low, one.deviation) == (0.5, None, None)
    for bad in ([], [float("nan")]):
        with pytest.raises(ValueError, match="finite values"):
            mean_over_seeds(bad)
