"""The peer of ``serving.py``: what one would write in an afternoon.

FastAPI, one question at a time, transformers' ``generate`` with the bundle's adapter as stock PEFT
loads it (no gates, so less work a token than M3OE), same prompts, dtype and threads; a yes/no
answer is generated with at most so many tokens and stops at the end of the turn.
"""

import argparse
import threading

import torch
import uvicorn
from fastapi import FastAPI
from peft.tuners.lora import LoraLayer

from fedkim_ray.bundle.read import load_bundle
from fedkim_ray.data.loading import collate
from serve.gateway import raw_input
from serve.inputs import to_example
from serve.limits import Limits
from serve.schemas import PredictRequest


def peer_app(bundle_url: str, yes_no_tokens: int) -> FastAPI:
    """Return an app that answers ``predict`` in the service's own form.

    Args:
        bundle_url: The bundle.
        yes_no_tokens: Tokens of a yes/no answer at most.
    """
    bundle = load_bundle(bundle_url)
    model, spec, one_at_a_time = bundle.model, bundle.facts.spec, threading.Lock()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            del module.forward  # M3OE's own: what is left is PEFT's
    close = model.tokenizer(model.format.answer_close, add_special_tokens=False).input_ids[0]
    stops = [close, model.tokenizer.eos_token_id]
    app = FastAPI()

    @app.post("/v1/tasks/{task}/predict")
    def predict(task: str, body: PredictRequest) -> dict[str, object]:
        raw = raw_input(body.inputs[0], "inputs[0]")
        example = to_example(raw, model.tasks[task], spec, Limits())
        most = yes_no_tokens if model.tasks[task].kind == "yes_no" else body.max_tokens
        with one_at_a_time, torch.inference_mode():
            prompted = model.prompt(collate([example], spec))
            ids = model.llm.generate(
                inputs_embeds=prompted.embeds_BLE,
                attention_mask=prompted.mask_BL,
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=stops,
                pad_token_id=model.tokenizer.eos_token_id,
            )[0]
        answer = model.tokenizer.decode(ids, skip_special_tokens=True)
        said = sum(int(token) not in stops for token in ids)  # the service counts no stop either
        return {"data": [{"answer": answer, "completion_tokens": said}]}

    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--yes-no-tokens", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    app = peer_app(options.bundle, options.yes_no_tokens)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
