# %% [markdown]
"""Plates on many devices: the same updates with the plate axis of data and eta sharded.

    python examples/inference/sharded_plates.py [--groups 1000] [--sites 10000]

The groups of `examples/hierarchical_gamma.py` and the sites of `poisson_sites.py` are placed on
devices by `jax.device_put` with a `NamedSharding`. `jax.jit` does the rest. The script prints the
largest difference from one device, relative to the largest eta of the node and coordinate. It also
prints the collectives of the compiled program by size. Sums over a plate are an all-reduce of a few
numbers. An all-gather of a whole plate would be listed too.
"""

# %%
import argparse
import os
import re
import sys
from pathlib import Path

# Set before JAX starts: four devices on a machine without accelerators, and double precision.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("JAX_ENABLE_X64", "true")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells
import hierarchical_gamma as groups_of
import poisson_sites as sites_of

import nnef_dists as nd

# %% [markdown]
# ## Collectives of a compiled program

# %%
COLLECTIVE = r"= (.+?) (all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\("


def collectives(compiled):
    """Returns the largest number of elements in one array, by the kind of collective."""
    found = {}
    for shapes, kind in re.findall(COLLECTIVE, compiled.as_text()):
        sizes = [
            int(np.prod([int(n) for n in dims.split(",") if n]))
            for dims in re.findall(r"\[([\d,]*)\]", shapes)
        ]
        found[kind] = max(found.get(kind, 0), *sizes)
    return found


# %% [markdown]
# ## Comparison with one device


# %%
def compare(name, update, arguments, plate, devices):
    """Runs an update on one device and on all, with sharded plates. Prints the comparison."""
    mesh = jax.make_mesh((devices,), ("plate",), axis_types=(AxisType.Auto,))

    def place(leaf):
        split = leaf.ndim > 0 and leaf.shape[0] == plate
        return jax.device_put(
            leaf, NamedSharding(mesh, PartitionSpec("plate") if split else PartitionSpec())
        )

    alone = jax.jit(update)(*arguments)
    spread = jax.tree.map(place, arguments)
    compiled = jax.jit(update).lower(*spread).compile()
    together = compiled(*spread)
    worst = max(
        float(np.max(np.abs(np.asarray(a) - np.asarray(b)) / np.max(np.abs(a), 0)))
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True)
    )
    large = [leaf for leaf in jax.tree.leaves(together) if leaf.ndim and leaf.shape[0] == plate]
    held = {len(leaf.addressable_shards[0].data) for leaf in large}
    print(f"{name}: {plate} elements on {devices} devices, {held} on each")
    print(f"{name}: largest relative difference {worst:.1e}")
    print(f"{name}: elements in the largest array by collective: {collectives(compiled) or 'none'}")


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs both problems."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--sweeps", type=int, default=10)
    options = cells.parse(parser)
    devices = jax.device_count()

    nodes = groups_of.make_pair_nodes(options.groups)
    data = *groups_of.simulate(options.groups, 20, 0)[:2], jnp.asarray(20.0)

    def sweep(eta, *data):
        return groups_of.infer(nodes, eta, data, options.sweeps)[0]

    start = groups_of.start_pairs(options.groups)
    compare("groups", sweep, (start, *data), options.groups, devices)

    y = np.random.default_rng(0).poisson(np.exp(1.0), options.sites).astype(float)
    q = nd.Quadrature(nd.Polynomial1D((1, 2, 3, 4)))
    mode, scale = sites_of.find_modes(sites_of.log_poisson, jnp.asarray(y))
    sites = {"z": nd.inference.Node(q, (options.sites,))}

    def update(eta, y, mode, scale):
        def likelihood(eta, y, mode, scale):
            def log_likelihood(z):
                return sites_of.log_poisson(mode + scale * z, y)

            return nd.inference.cvi_message(log_likelihood, q, sites_of.draws_of(q, eta))

        extra = jax.vmap(likelihood)(eta["z"], y, mode, scale)
        return nd.inference.step(
            sites_of.energy, sites, eta, "z", mode, scale, rho=0.5, extra=extra
        )

    eta = {"z": jnp.tile(jnp.array([0.0, -0.5, 0.0, -0.01]), (options.sites, 1))}
    compare("sites", update, (eta, jnp.asarray(y), mode, scale), options.sites, devices)


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    main()
