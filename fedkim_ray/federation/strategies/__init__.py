"""One file a paper; a new strategy is a copy of its neighbour and a line here."""

from fedkim_ray.config import (
    FedAdamConfig,
    FedAvgMConfig,
    FedProxConfig,
    FedYogiConfig,
    KrumConfig,
    MedianConfig,
    StrategyConfig,
    TrimmedMeanConfig,
)
from fedkim_ray.federation.aggregation import Strategy
from fedkim_ray.federation.strategies.fedadam import FedAdam
from fedkim_ray.federation.strategies.fedavg import FedAvg
from fedkim_ray.federation.strategies.fedavgm import FedAvgM
from fedkim_ray.federation.strategies.fedprox import FedProx
from fedkim_ray.federation.strategies.fedyogi import FedYogi
from fedkim_ray.federation.strategies.krum import Krum
from fedkim_ray.federation.strategies.median import Median
from fedkim_ray.federation.strategies.trimmed_mean import TrimmedMean


def build_strategy(config: StrategyConfig) -> Strategy:
    """Return the strategy that a recipe names."""
    match config:
        case FedProxConfig():
            return FedProx(mu=config.mu)
        case FedAvgMConfig():
            return FedAvgM(eta=config.eta, beta=config.beta)
        case FedAdamConfig():
            return FedAdam(eta=config.eta, beta1=config.beta1, beta2=config.beta2, tau=config.tau)
        case FedYogiConfig():
            return FedYogi(eta=config.eta, beta1=config.beta1, beta2=config.beta2, tau=config.tau)
        case MedianConfig():
            return Median()
        case TrimmedMeanConfig():
            return TrimmedMean(beta=config.beta)
        case KrumConfig():
            return Krum(num_faulty=config.num_faulty)
        case _:
            return FedAvg()
