"""``python -m tests.evaluation.benchmark.on_mesh FOLDER``: replies of a model on one device and on a mesh, as JSON."""

import json
import sys
from pathlib import Path

from medvista_jax.evaluation.benchmark.hub_policy import Generation, HubPolicy
from medvista_jax.runtime.mesh import make_mesh, parse_mesh
from tests.evaluation.benchmark.test_hub_policy import ASKS, NEW

if __name__ == "__main__":
    for mesh in (None, make_mesh(parse_mesh("data=2,tensor=2"))):
        policy = HubPolicy(Path(sys.argv[1]), Generation(NEW, at_once=4), view=16, mesh=mesh)
        kernels = [leaf for leaf in policy.params["decoder"]["layer_0"]["gate"].values()]
        print(json.dumps([len(kernels[0].devices()), [reply.text for reply in policy.reply(ASKS)]]))
