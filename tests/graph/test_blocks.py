import torch

from atomsweep.graph.blocks import BLOCK, EdgeBlocks


def random_index(num_atoms=9, count=170):
    index = torch.randint(num_atoms - 2, (count,), generator=torch.Generator().manual_seed(0))
    return index, num_atoms  # the last two atoms have no edge


def test_what_is_filled_in_is_read_out():
    index, num_atoms = random_index()
    values = torch.randn(len(index), 3)
    blocks = EdgeBlocks(index, num_atoms)
    assert torch.equal(blocks.read(blocks.fill(values)), values)


def test_blocks_of_an_atom_hold_its_edges_and_zeros():
    index, num_atoms = random_index()
    blocks = EdgeBlocks(index, num_atoms)
    filled = blocks.fill(torch.arange(1.0, len(index) + 1)[:, None]).squeeze(-1)
    assert filled.shape == (blocks.num_blocks, BLOCK)
    for atom in range(num_atoms):
        held = filled[blocks.atom == atom]
        wanted = torch.nonzero(index == atom).squeeze(-1) + 1.0
        assert torch.equal(held[held > 0].sort().values, wanted)
    assert int((filled > 0).sum()) == len(index)


def test_there_is_room_for_one_more_than_full_blocks():
    for count in (0, 1, BLOCK, BLOCK + 1, 5 * BLOCK + 1):
        index = torch.cat([torch.zeros(count, dtype=torch.long), torch.arange(4)])
        blocks = EdgeBlocks(index, 4)
        assert int(blocks.place.max()) < blocks.num_blocks * BLOCK
        assert len(blocks.place.unique()) == len(index)
