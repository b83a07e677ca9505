"""Light models without federation, on the tiny root, where a learner that works is nearly right."""

from fedkim_ray.data.loading import load_samples
from fedkim_ray.data.root import read_card
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.evaluation.answers import ANSWERS
from fedkim_ray.recipe_files import load_recipe
from fedkim_ray.storage import Folder
from fedkim_ray.study.supervised import HEAD, head_answers, train_light

HEADS = [t for t in TASKS if t.id in ("mortality", "ecg_abnormal")]
SETS = ["federation.rounds=1", "federation.local.epochs=2", "federation.local.lr=0.01"]


def test_a_client_alone_learns_its_task_and_repeats_itself(tiny_root: str) -> None:
    root, recipe = Folder.at(tiny_root), load_recipe("tiny", SETS)
    spec = read_card(root).spec
    train = {"mortality": load_samples(root / "clients/south/mortality/train", spec)}
    test = {"mortality": load_samples(root / "test/mortality", spec)}
    mortality = [task for task in HEADS if task.id == "mortality"]
    tables = [
        head_answers(train_light(recipe, spec, HEADS, train, "south"), mortality, test, 16)
        for _ in range(2)
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].schema == ANSWERS
    assert set(tables[0]["reading"].to_pylist()) == {HEAD}
    pairs = zip(tables[0]["said"].to_pylist(), tables[0]["answer"].to_pylist(), strict=True)
    assert sum(said == answer for said, answer in pairs) > 0.9 * tables[0].num_rows
