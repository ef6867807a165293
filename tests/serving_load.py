"""An exported model under load, where tf_neuralode can't be imported.

`python serving_load.py exported requests.npz answers.npz`: one thread asks each of the requests
(arrays named by number) first, then 16 threads ask all of them again, several rounds. Prints, in
JSON, the figures; writes the answers that the single calls gave.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor


class Refuse:
    """Refuses the package by its name, wherever it is installed."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tf_neuralode", "tensorflow_probability"):
            raise ImportError(name)


sys.meta_path.insert(0, Refuse())

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import tensorflow as tf  # noqa: E402

NUM_CLIENTS = 16


def main(exported, requests, answers, num_requests):
    loaded = tf.saved_model.load(exported)
    with np.load(requests) as data:
        batches = [data[name] for name in sorted(data, key=int)]
    ask = lambda x: loaded.serve(tf.constant(x)).numpy()
    alone = [ask(x) for x in batches]
    np.savez(answers, **{str(number): y for number, y in enumerate(alone)})
    memory = psutil.Process().memory_info

    def client(first, number):
        """How many of its share of the answers have other bits than that of the single call."""
        num_different = 0
        for i in range(first, number, NUM_CLIENTS):
            x, y = batches[i % len(batches)], alone[i % len(batches)]
            num_different += ask(x).tobytes() != y.tobytes()
        return num_different

    def load(number):
        # One future for each client: one for each request would be a kilobyte for each request.
        with ThreadPoolExecutor(NUM_CLIENTS) as clients:
            return sum(clients.map(client, range(NUM_CLIENTS), [number] * NUM_CLIENTS))

    num_different = load(num_requests // 4)  # the threads' own pools of memory fill
    before, start = memory().rss, time.perf_counter()
    num_different += load(num_requests)
    seconds = time.perf_counter() - start
    figures = {
        "num_different": num_different,
        "before": before,
        "after": memory().rss,
        "seconds": seconds,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
