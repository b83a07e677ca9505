"""Shares, clients and purity of the split."""

import re
from collections import Counter
from pathlib import Path

import pytest

from fedkim_ray.data.importing.keys import SubjectKey, load_key
from fedkim_ray.data.importing.split import SplitRule, Splitter, client_name, parse_partition
from fedkim_ray.errors import DataError

KEY = SubjectKey(b"k" * 32)
SUBJECTS = [str(i) for i in range(4000)]


def splitter(**rule: object) -> Splitter:
    return Splitter(SplitRule.model_validate(rule), KEY)


def test_shares_are_kept() -> None:
    kinds = Counter(splitter(test_share=0.2, public_share=0.1).kind(s) for s in SUBJECTS)
    assert kinds["test"] == pytest.approx(800, abs=80)
    assert kinds["public"] == pytest.approx(400, abs=60)


def test_key_and_seed_decide_and_nothing_else() -> None:
    def draw(split: Splitter) -> list[str]:
        return [split.kind(s) for s in SUBJECTS[:100]]

    assert draw(splitter()) == draw(splitter())
    assert draw(splitter()) != draw(splitter(seed=1))
    assert draw(splitter()) != draw(Splitter(SplitRule(), SubjectKey(b"j" * 32)))


def test_iid_clients_are_alike_in_size() -> None:
    counts = Counter(splitter(clients=4).client(s, "", "") for s in SUBJECTS)
    assert sorted(counts) == ["client-0", "client-1", "client-2", "client-3"]
    assert all(count == pytest.approx(1000, abs=120) for count in counts.values())


def test_dirichlet_gives_each_label_its_own_shares() -> None:
    split = splitter(partition="dirichlet", alpha=0.3, clients=3)
    shares = {
        label: Counter(split.client(s, "", label) for s in SUBJECTS) for label in ("t=0", "t=1")
    }
    gaps = [abs(shares["t=0"][c] - shares["t=1"][c]) for c in ("client-0", "client-1", "client-2")]
    assert max(gaps) > 400


def test_sites_become_folder_names() -> None:
    assert splitter(partition="site").client("1", " St Mary  Ward 3", "") == "st-mary-ward-3"
    assert client_name("ST-MARY ward 3") == "st-mary-ward-3"
    assert re.fullmatch(r"st-mary-ward-3-[0-9a-f]{8}", client_name("St. Mary / Ward 3"))
    assert re.fullmatch(r"site-[0-9a-f]{8}", client_name("../.."))


def test_other_hospitals_are_other_folders() -> None:
    sites = [
        "北京协和医院",
        "上海瑞金医院",
        "Köln",
        "K-ln",
        "Station 3",
        "Station 3+",
        "Station 3-",
    ]
    assert len({client_name(site) for site in sites}) == len(sites)
    assert client_name("KÖLN") == client_name("Ko\u0308ln") == client_name("Köln")


@pytest.mark.parametrize("text", ["dirichlet", "dirichlet:0", "dirichlet:-1", "even", "site:2"])
def test_an_unknown_partition_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=f"Partition '{text}' is not known"):
        parse_partition(text)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys/subject.key"
    key = load_key(path)
    assert load_key(path) == key
    assert path.stat().st_mode & 0o077 == 0
    assert key.secret.hex() not in repr(key)
    assert key.identifier("a", "b") != key.identifier("ab")


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("abcd")
    with pytest.raises(DataError, match="is no key file"):
        load_key(tmp_path / "key")
