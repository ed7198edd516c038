from tests.contracts.model_contract import ModelContract, Symmetry

SMALL = ["model.hidden_channels=8", "model.num_layers=1"]


class TestGala(ModelContract):
    overrides = ["model=gala", *SMALL]
    rotation = Symmetry.EXACT
    conservative = True
    extensive = False
    local = False
