"""Features of many patients: each travels alone, as it is, and in as many bytes as it has."""

import pickle

import pytest
import torch

from serve.encoding import FeatureEncoder
from serve.engine import EngineRequest, Feature


@pytest.fixture(scope="module")
def encoder(bundle_url: str) -> FeatureEncoder:
    return FeatureEncoder.from_bundle(bundle_url)


def test_a_request_about_more_patients_ships_as_many_times_the_bytes(
    encoder: FeatureEncoder, requests: list[EngineRequest]
) -> None:
    example = next(r for r in requests if r.task.id == "mortality").example
    one, eight = (len(pickle.dumps(encoder.encode([example] * n))) for n in (1, 8))
    assert one < eight <= 8 * one
    (feature, *_) = encoder.encode([example] * 8)[0].by_group.values()
    kept = feature.tokens_KE
    assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_feature_arrives_as_it_left(dtype: torch.dtype) -> None:
    tokens = torch.arange(6.0).view(2, 3).to(dtype)
    sent = Feature(tokens_KE=tokens, carries_K=torch.tensor([True, False]))
    came = pickle.loads(pickle.dumps(sent))
    assert came.tokens_KE.dtype == dtype
    assert came.tokens_KE.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert came.carries_K.tolist() == [True, False]
