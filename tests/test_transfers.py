"""What is read in one copy is what it was."""

import torch

from atomsweep.transfers import packed, read, unpacked


def test_tensors_of_all_types_and_shapes_come_back_bit_by_bit():
    tensors = [
        torch.tensor([True, False, True]),  # three bytes, so that all behind lie askew
        torch.randn(4, 3, dtype=torch.float64).T,
        torch.tensor(float("nan")),
        torch.zeros(0, 3, dtype=torch.int16),
        torch.tensor([2**62 + 1, -5]),
        torch.randn(2, 2).to(torch.bfloat16).requires_grad_(),
    ]
    found = unpacked(packed(tensors), tensors)
    for one, other in zip(found, tensors, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(packed([one]), packed([other]))
        assert not one.requires_grad


def test_what_is_on_the_cpu_is_not_copied():
    tensors = torch.zeros(2), torch.ones(3, dtype=torch.int64)
    assert [id(tensor) for tensor in read(*tensors)] == [id(tensor) for tensor in tensors]
