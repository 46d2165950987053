"""The metrics against closed forms, and against the formulas of their papers written out in loops."""

import math

import numpy as np
import pytest

from laur.utils.metrics import agreement, bootstrap, gaussian, kernels, manifold

RANDOM = np.random.default_rng(7)


def features(n: int, d: int, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) * scale + shift


class TestFrechetDistance:
    def test_diagonal_gaussians_have_a_closed_form(self) -> None:
        a, b = RANDOM.uniform(0.1, 4, 12), RANDOM.uniform(0.1, 4, 12)
        mean = RANDOM.standard_normal(12)
        expected = (mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
        found = gaussian.frechet_from_moments(np.zeros(12), np.diag(a), mean, np.diag(b))
        assert found == pytest.approx(expected, rel=1e-12)

    def test_it_equals_the_trace_of_the_matrix_root(self) -> None:
        x, y = features(50, 6, seed=1), features(40, 6, 0.3, 1.5, seed=2)
        product = np.cov(x.T) @ np.cov(y.T)
        root = np.sqrt(np.linalg.eigvals(product).astype(complex)).sum().real
        expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * root
        assert gaussian.frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)

    def test_fewer_rows_than_dimensions_give_what_the_moments_give(self) -> None:
        x, y = features(9, 40, seed=3), features(11, 40, 0.2, seed=4)
        moments = gaussian.frechet_from_moments(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
        assert gaussian.frechet_distance(x, y) == pytest.approx(moments, rel=1e-6)

    def test_a_set_is_at_distance_zero_from_itself_though_singular(self) -> None:
        x = features(8, 100, seed=5)
        assert gaussian.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
        assert gaussian.frechet_distance(x, x + 2) == pytest.approx(400, rel=1e-9)

    @pytest.mark.parametrize("d", [4, 60])
    def test_weights_count_a_row_that_often(self, d: int) -> None:
        x, y = features(20, d, seed=6), features(18, d, 0.4, seed=7)
        counts = np.random.default_rng(0).integers(0, 4, 20).astype(float)
        repeated = np.repeat(x, counts.astype(int), axis=0)
        found = gaussian.frechet_distance(x, y, counts)
        assert found == pytest.approx(gaussian.frechet_distance(repeated, y), rel=1e-7)

    def test_one_row_is_refused(self) -> None:
        with pytest.raises(ValueError, match="2 at least"):
            gaussian.frechet_distance(features(1, 3), features(5, 3))


class TestDiscrepancy:
    def test_kid_is_the_formula_written_out(self) -> None:
        x, y = features(6, 5, seed=1), features(7, 5, 0.5, seed=2)

        def k(a: np.ndarray, b: np.ndarray) -> float:
            return float((a @ b / 5 + 1) ** 3)

        xx = sum(k(x[i], x[j]) for i in range(6) for j in range(6) if i != j) / 30
        yy = sum(k(y[i], y[j]) for i in range(7) for j in range(7) if i != j) / 42
        xy = sum(k(a, b) for a in x for b in y) / 42
        matrices = (kernels.polynomial_kernel(*pair) for pair in ((x, x), (y, y), (x, y)))
        assert kernels.mmd2(*matrices) == pytest.approx(xx + yy - 2 * xy, rel=1e-12)

    def test_the_gaussian_kernel_between_gaussians_has_a_closed_form(self) -> None:
        """E k(x, y) = (s² / (s² + 2))^(d/2) exp(-|μ|² / 2(s² + 2)) for unit Gaussians whose means are μ apart."""
        d, sigma, gap = 3, 2.0, 0.8
        x, y = features(1500, d, seed=11), features(1500, d, gap, seed=12)
        wide = sigma**2 + 2
        scale = (sigma**2 / wide) ** (d / 2)
        expected = 2 * scale * (1 - math.exp(-d * gap**2 / (2 * wide)))
        matrices = (kernels.rbf_kernel(*pair, sigma) for pair in ((x, x), (y, y), (x, y)))
        assert kernels.mmd2(*matrices) == pytest.approx(expected, rel=0.06)

    def test_both_estimators_are_unbiased(self) -> None:
        """Many small draws from one distribution average to zero, within their own spread."""
        values = []
        for seed in range(300):
            x, y = features(8, 4, seed=2 * seed), features(8, 4, seed=2 * seed + 1)
            kxx, kyy, kxy = (kernels.polynomial_kernel(*pair) for pair in ((x, x), (y, y), (x, y)))
            values.append([kernels.mmd2(kxx, kyy, kxy), kernels.mmd2_paired(kxx, kyy, kxy)])
        table = np.array(values)
        error = table.std(0) / np.sqrt(len(table))
        assert (np.abs(table.mean(0)) < 4 * error).all()

    def test_what_a_pair_shares_does_not_move_the_paired_estimate(self) -> None:
        x, y = features(9, 4, seed=1), features(9, 4, 0.3, seed=2)
        kxx, kyy, kxy = (kernels.polynomial_kernel(*pair) for pair in ((x, x), (y, y), (x, y)))
        alike = kxy + 50 * np.eye(9)
        assert kernels.mmd2_paired(kxx, kyy, alike) == pytest.approx(kernels.mmd2_paired(kxx, kyy, kxy))
        assert kernels.mmd2(kxx, kyy, alike) != pytest.approx(kernels.mmd2(kxx, kyy, kxy))

    def test_a_copy_in_a_resample_is_no_second_picture(self) -> None:
        x, y = features(6, 4, seed=1), features(6, 4, 0.3, seed=2)
        kxx, kyy, kxy = (kernels.polynomial_kernel(*pair) for pair in ((x, x), (y, y), (x, y)))
        counts = np.array([2.0, 0, 1, 1, 0, 2])
        terms, weight = 0.0, 0.0
        for i in range(6):
            for j in range(6):
                if i != j:
                    terms += counts[i] * counts[j] * (kxx[i, j] + kyy[i, j] - kxy[i, j] - kxy[j, i])
                    weight += counts[i] * counts[j]
        assert kernels.mmd2_paired(kxx, kyy, kxy, counts) == pytest.approx(terms / weight, rel=1e-12)
        ones = np.ones(6)
        assert kernels.mmd2_paired(kxx, kyy, kxy, ones) == pytest.approx(kernels.mmd2_paired(kxx, kyy, kxy))

    def test_pictures_of_one_prompt_are_averaged(self) -> None:
        kernel = np.arange(36.0).reshape(6, 6)
        found = kernels.by_prompt(kernel, 3)
        assert found.shape == (3, 3)
        assert kernels.by_prompt(kernel[:, :3], 3)[1, 2] == np.mean(kernel[2:4, 2])
        assert found[0, 1] == np.mean([kernel[0, 2], kernel[0, 3], kernel[1, 2], kernel[1, 3]])

    def test_subsets_have_a_mean_near_the_whole_and_a_spread(self) -> None:
        x, y = features(300, 8, seed=1), features(300, 8, 0.3, seed=2)
        whole = kernels.mmd2(*(kernels.polynomial_kernel(*pair) for pair in ((x, x), (y, y), (x, y))))
        found = kernels.kid(x, y, subsets=60, size=80)
        assert found.size == 80
        assert found.variance > 0
        assert found.mean == pytest.approx(whole, abs=3 * math.sqrt(found.variance / 60))
        assert kernels.kid(x[:20], y, size=1000).size == 20


class TestManifold:
    def test_precision_and_recall_as_written(self) -> None:
        real, generated = features(25, 3, seed=1), features(30, 3, 0.7, 1.3, seed=2)
        precision, recall = manifold.precision_recall(real, generated, 3)
        assert precision.tolist() == _members(generated, real, 3)
        assert recall.tolist() == _members(real, generated, 3)
        assert 0 < precision.mean() < 1

    def test_density_and_coverage_as_written(self) -> None:
        real, generated = features(25, 3, seed=3), features(30, 3, 0.7, 1.3, seed=4)
        density, coverage = manifold.density_coverage(real, generated, 5)
        balls = [sorted(np.linalg.norm(real - row, axis=1))[5] for row in real]
        inside = np.array(
            [[np.linalg.norm(r - g) <= ball for g in generated] for r, ball in zip(real, balls, strict=True)]
        )
        assert density == pytest.approx(inside.sum(0) / 5)
        assert coverage.tolist() == inside.any(1).astype(float).tolist()

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real, generated = features(25, 3, seed=5), features(30, 3, 0.7, seed=6)
        whole = [*manifold.precision_recall(real, generated), *manifold.density_coverage(real, generated)]
        monkeypatch.setattr(manifold, "ROWS", 7)
        parts = [*manifold.precision_recall(real, generated), *manifold.density_coverage(real, generated)]
        for a, b in zip(whole, parts, strict=True):
            assert a == pytest.approx(b)

    def test_equal_sets_are_whole_and_far_sets_share_nothing(self) -> None:
        rows = features(40, 6, seed=7)
        assert [part.mean() for part in manifold.precision_recall(rows, rows)] == [1, 1]
        assert manifold.density_coverage(rows, rows)[1].mean() == 1
        assert [part.mean() for part in manifold.precision_recall(rows, rows + 100)] == [0, 0]

    def test_copies_have_a_neighbour_at_distance_zero(self) -> None:
        assert manifold.radii(np.ones((4, 3)), 2).tolist() == [0, 0, 0, 0]

    def test_too_many_neighbours_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"1\.\.3 with 4 rows"):
            manifold.precision_recall(features(4, 2), features(9, 2), 4)


def _members(points: np.ndarray, centres: np.ndarray, k: int) -> list[float]:
    balls = [sorted(np.linalg.norm(centres - row, axis=1))[k] for row in centres]
    return [float(any(np.linalg.norm(p - c) <= ball for c, ball in zip(centres, balls, strict=True))) for p in points]


class TestAgreement:
    @pytest.mark.parametrize(
        ("tries", "successes", "k"), [(5, 0, 2), (5, 2, 1), (5, 2, 3), (8, 1, 8), (6, 5, 2), (4, 4, 1)]
    )
    def test_pass_at_k_is_one_minus_the_share_of_choices_that_all_fail(
        self, tries: int, successes: int, k: int
    ) -> None:
        expected = 1 - math.comb(tries - successes, k) / math.comb(tries, k)
        assert agreement.pass_at_k(tries, successes, k) == pytest.approx(expected)

    def test_more_tries_than_there_were_are_refused(self) -> None:
        with pytest.raises(ValueError, match="pass@4"):
            agreement.pass_at_k(3, 1, 4)

    def test_a_caption_is_found_when_no_other_scores_as_high(self) -> None:
        scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.3]])
        own = np.array([0, 1, 2])
        assert agreement.retrieved(scores, own).tolist() == [1, 0, 0]
        assert agreement.retrieved(scores, own, top=2).tolist() == [1, 1, 0]

    def test_psnr(self) -> None:
        x = np.full((2, 4, 4, 3), 100, np.uint8)
        y = x.copy()
        y[0] += 10
        found = agreement.psnr(x, y)
        assert found[0] == pytest.approx(10 * math.log10(255**2 / 100))
        assert found[1] == pytest.approx(100)


class TestBootstrap:
    def test_the_interval_of_a_mean_is_that_of_the_normal_distribution(self) -> None:
        values = features(400, 1, 2.0, seed=1)[:, 0]
        found = bootstrap.mean_interval(values, bootstrap.resamples(4000, 400))
        half = 1.96 * values.std() / 20
        assert found.value == pytest.approx(values.mean())
        assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
        assert found.high == pytest.approx(found.value + half, abs=0.1 * half)
        assert found.to_dict()["level"] == 0.95

    def test_resamples_take_as_many_as_there_are_and_come_again(self) -> None:
        weights = bootstrap.resamples(50, 30, seed=3)
        assert (weights.sum(1) == 30).all()
        assert (weights == bootstrap.resamples(50, 30, seed=3)).all()
        assert (weights != bootstrap.resamples(50, 30, seed=4)).any()

    def test_a_centred_interval_lies_around_its_value(self) -> None:
        draws = np.linspace(10, 12, 101)
        found = bootstrap.centred_interval(5.0, draws, 0.9)
        assert (found.low, found.high) == (pytest.approx(4.1), pytest.approx(5.9))

    def test_the_interval_of_a_discrepancy_holds_the_truth_about_as_often_as_it_says(self) -> None:
        """Between Gaussians whose means are apart, under the linear kernel MMD² is the squared gap."""
        held = 0
        for seed in range(80):
            x, y = features(40, 3, seed=2 * seed), features(40, 3, 1.0, seed=2 * seed + 1)
            matrices = x @ x.T, y @ y.T, x @ y.T
            draws = np.array([kernels.mmd2_paired(*matrices, w) for w in bootstrap.resamples(200, 40, seed)])
            found = bootstrap.percentile_interval(kernels.mmd2_paired(*matrices), draws, 0.9)
            held += found.low <= 3.0 <= found.high
        assert 62 <= held <= 80
