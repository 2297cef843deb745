"""Plain questions to a person. Agents ask, wait and withdraw; only the operator's router answers."""

from __future__ import annotations

from fastapi import Request, Response

from backend.api.bodies import AnswerBody
from backend.api.common import AskId, Caller, Served, WaitSeconds, answer, router, while_connected
from backend.models import Ask, AskRequest

agent = router("human")
operator = router("human")


@agent.post("/v1/human/ask", response_model=Ask)
@agent.post("/api/v1/human/ask", response_model=Ask)
async def ask(request: Request, caller: Caller, services: Served, body: AskRequest) -> Response:
    """Blocks until a person answers or ``timeout_secs`` pass (then ``expired``). A caller whose connection
    breaks finds the question under ``/v1/human/pending``."""
    asked = await services.asks.ask(caller, body)
    waiting = services.asks.wait(caller, asked.request_id, body.timeout_secs)
    return answer(await while_connected(request, waiting))


@agent.post("/v1/human/ask-async", status_code=202, response_model=Ask)
@agent.post("/api/v1/human/ask-async", status_code=202, response_model=Ask)
async def ask_async(caller: Caller, services: Served, body: AskRequest) -> Response:
    return answer(await services.asks.ask(caller, body), 202)


@agent.get("/v1/human/pending")
@agent.get("/api/v1/human/pending")
async def pending(caller: Caller, services: Served) -> Response:
    found = await services.asks.list(caller)
    return answer({"pending": found, "total": len(found)})


@agent.get("/v1/human/pending/{id}", response_model=Ask)
@agent.get("/api/v1/human/pending/{id}", response_model=Ask)
async def read(
    request: Request, caller: Caller, services: Served, id: AskId, wait: WaitSeconds = 0
) -> Response:
    """The question as it stands; with ``wait`` once it is over, or after that many seconds."""
    return answer(await while_connected(request, services.asks.wait(caller, id, wait)))


@agent.delete("/v1/human/pending/{id}", response_model=Ask)
@agent.delete("/api/v1/human/pending/{id}", response_model=Ask)
async def withdraw(caller: Caller, services: Served, id: AskId) -> Response:
    return answer(await services.asks.withdraw(caller, id))


@operator.post("/v1/asks/{id}/answer", response_model=Ask)
async def answer_ask(caller: Caller, services: Served, id: AskId, body: AnswerBody) -> Response:
    """A person's word; the blocked caller gets it at once."""
    said = services.asks.answer(caller, id, body.approved, body.comment, body.alternative)
    return answer(await said)
