"""Greets whom the payload names."""

import wit_world
from componentize_py_types import Err
from wit_world.imports import environment, log, messaging
from wit_world.imports.types import Context, Failure_Permanent


class WitWorld(wit_world.WitWorld):
    """The function."""

    def handle(self, cx: Context, payload: bytes) -> bytes:
        try:
            name = payload.decode()
        except UnicodeDecodeError:
            raise Err(Failure_Permanent("the payload is no UTF-8 text"))
        if not name:
            raise Err(Failure_Permanent("the payload names nobody to greet"))
        log.write(log.Level.INFO, f"greeting {name}")
        messaging.publish(messaging.Message("greetings.sent", [], payload))
        greeting = environment.get("GREETING") or "Hello"
        return f"{greeting}, {name}!\n".encode()
