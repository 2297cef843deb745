"""The SDK: ``Fluid`` blocks, ``AsyncFluid`` awaits; both have the same methods.

Errors are :mod:`backend.errors`.

>>> from backend.client import Fluid
>>> with Fluid() as fluid:  # the agent door of this machine
...     sandbox = fluid.create_sandbox("debian-12", agent_id="me")
...     print(sandbox.run("uname -a").stdout)

Importing this module imports neither the nouns nor an HTTP library: `fluid status` has a quarter of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backend.client.aio import AsyncFluid, AsyncSandbox
    from backend.client.blocking import Fluid, FluidSandbox

__all__ = ["AsyncFluid", "AsyncSandbox", "Fluid", "FluidSandbox"]


def __getattr__(name: str) -> Any:
    if name in ("Fluid", "FluidSandbox"):
        from backend.client import blocking

        return getattr(blocking, name)
    if name in ("AsyncFluid", "AsyncSandbox"):
        from backend.client import aio

        return getattr(aio, name)
    raise AttributeError(name)
