"""One file a paper; a new strategy is a copy of its neighbour and a line here."""

from fedkim_ray.config import FedProxConfig, StrategyConfig
from fedkim_ray.federation.aggregation import Strategy
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.federation.strategies.fedprox import FedProx


def build_strategy(config: StrategyConfig) -> Strategy:
    """Return the strategy that a recipe names."""
    if isinstance(config, FedProxConfig):
        return FedProx(mu=config.mu)
    return FedAvg()
