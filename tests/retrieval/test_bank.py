"""Querybank normalisation against a slow reading of its paper, and what it is for."""

import math

import pytest
import torch
import torch.nn.functional as F

from vlp.retrieval.bank import hubness, normalised
from vlp.retrieval.embed import Vectors


def gallery(images: torch.Tensor, texts: torch.Tensor) -> Vectors:
    return Vectors(images, texts, 1.0)


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("beta", [1.0, 10.0, 60.0])
def test_each_query_ranks_as_by_the_inverted_softmax(beta: float) -> None:
    images, texts, bank_images, bank_texts = (unit(n, 8, seed=n) for n in (6, 9, 11, 13))
    first = images @ texts.T
    corrected = normalised(first, gallery(images, texts), gallery(bank_images, bank_texts), beta)

    def inverted(query: torch.Tensor, item: torch.Tensor, bank: torch.Tensor) -> float:
        """exp(beta s) over its sum with the bank's queries, item by item (Bogolin 2022, equation 3)."""
        total = sum(math.exp(beta * float(asked.double() @ item.double())) for asked in bank)
        return math.exp(beta * float(query.double() @ item.double())) / total

    for c, text in enumerate(texts):
        expected = torch.tensor([inverted(text, image, bank_texts) for image in images])
        assert corrected[:, c].argsort().tolist() == expected.argsort().tolist()
    for n, image in enumerate(images):
        expected = torch.tensor([inverted(image, text, bank_images) for text in texts])
        assert corrected[n].argsort().tolist() == expected.argsort().tolist()


def test_a_hub_no_longer_answers_every_query() -> None:
    """One picture lies in the middle of all captions and is the nearest of each before the correction."""
    images = unit(5, 64, seed=0)
    centre = F.normalize(images.mean(0), dim=0)
    texts = F.normalize(images + 2.0 * centre, dim=1)
    crowded = torch.cat([images, centre[None]])
    assert (crowded @ texts.T).argmax(0).tolist() == [5] * 5
    bank = gallery(images, F.normalize(images + 2.0 * centre + 0.05 * unit(5, 64, seed=1), dim=1))
    corrected = normalised(crowded @ texts.T, gallery(crowded, texts), bank, 10.0)
    assert corrected.argmax(0).tolist() == list(range(5))


def test_hubness_of_a_constant_is_that_constant() -> None:
    torch.testing.assert_close(hubness(torch.full((3, 7), 0.25), 10.0), torch.full((3,), 0.25))
