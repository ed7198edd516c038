"""Names, shapes, signs and units of the fields of a batch.

Dimensions: N atoms, E edges, B structures. A batch is a `torch_geometric.data.Batch` with these
fields; optional ones are absent where the data set has none. The one sign convention:

    edge_vec = pos[source] - pos[target] + cell_offsets @ cell

points from the centre (target) to the neighbour (source); edges are sorted by target.
"""

POS = "pos"  # (N, 3) Å
ATOMIC_NUMBERS = "atomic_numbers"  # (N,) int64
CELL = "cell"  # (B, 3, 3) Å, rows are lattice vectors
PBC = "pbc"  # (B, 3) bool
NATOMS = "natoms"  # (B,) int64
BATCH = "batch"  # (N,) int64, structure of each atom
PTR = "ptr"  # (B + 1,) int64, first atom of each structure
TAGS = "tags"  # (N,) int64: 0 subsurface, 1 surface, 2 adsorbate
FIXED = "fixed"  # (N,) bool: True where the atom was held during the relaxation
ENERGY = "energy"  # (B,) eV
FORCES = "forces"  # (N, 3) eV/Å, as computed, also on fixed atoms
EDGE_INDEX = "edge_index"  # (2, E) int64: [0] source = neighbour, [1] target = centre
CELL_OFFSETS = "cell_offsets"  # (E, 3) integers, in units of the cell's rows
NUM_EDGES = "num_edges_per_structure"  # (B,) int64
SID = "sid"  # (B,) int64, system (relaxation) id
FID = "fid"  # (B,) int64, frame within the system
PAIR_EDGES = "pair_edges"  # (P,) the first edge of each pair (`graph.edges`); optional
PAIR = "pair"  # (E,) the pair of each edge; there if the former is
CLOUDS = "clouds"  # `graph.clouds.PointClouds`, of models that read them; optional
PLACES = "places"  # (B,) int64, where each structure stands in the batch of a step; in training
REAL = "real"  # (3,) int64, structures, atoms and edges before the ghosts; of filled batches
FILLED = "filled"  # the same batch with ghosts, of which this one is a view; of compiled runs
PROGRESS = "progress"  # share of the training's budget that is used, a float; in training alone

# While a model learns to denoise (`dens/`); absent otherwise, and then nothing is encoded
DENS_MASK = "dens_mask"  # (N,) bool: the forces of the atom are encoded
DENS_FORCES = "dens_forces"  # (N, 3) forces to encode, in the units of the paper's data; else zero
DENS_SIGMA = "dens_sigma"  # (N,) Å, scale of the noise of the atom's structure; only if encoded
DENS_MOVED = "dens_moved"  # (N,) bool: the atom was moved, and its noise is to be predicted
DENS_NOISE = "dens_noise"  # (N, 3) what `noise` is compared with: displacement / scale; else zero
DENS_STRUCTURES = "dens_structures"  # (B,) bool: the structure has been corrupted
DENS_MOVED_EDGES = "dens_moved_edges"  # numbers of the edges into moved atoms; optional
DENS_LEFT_EDGES = "dens_left_edges"  # numbers of the other edges; there if the former is
