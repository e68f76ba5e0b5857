"""aio-pika: robust connections, many confirms at once, its RPC and worker patterns."""

import asyncio
import os
import time

import aio_pika
import pytest
from aio_pika.patterns import RPC, Master

LARGE_BYTES = 10 * 1024 * 1024


def run(scenario, seconds=120):
    async def limited():
        return await asyncio.wait_for(scenario, seconds)

    return asyncio.run(limited())


async def connect(server, **options):
    return await aio_pika.connect(server.url(), **options)


def test_confirms_in_flight_and_iterator(shared, name):
    async def scenario():
        async with await connect(shared) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(name, durable=True)
            exchange = channel.default_exchange

            def message(n):
                return aio_pika.Message(b"%d" % n, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)

            await asyncio.gather(*(exchange.publish(message(n), name) for n in range(1000)))
            got = []
            async with queue.iterator() as messages:
                async for incoming in messages:
                    async with incoming.process():
                        got.append(int(incoming.body))
                    if len(got) == 1000:
                        break
            await queue.delete(if_empty=False, if_unused=False)
            return got

    assert run(scenario()) == list(range(1000))


def test_large_message(shared, name):
    async def scenario():
        async with await connect(shared) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(name, auto_delete=True)
            body = os.urandom(LARGE_BYTES)
            await channel.default_exchange.publish(aio_pika.Message(body), name)
            incoming = await queue.get()
            await incoming.ack()
            assert incoming.body == body
            await queue.delete()

    run(scenario())


def test_many_channels(shared, name):
    async def scenario():
        async with await connect(shared) as connection:
            own = await connection.channel()
            queue = await own.declare_queue(name)
            channels = [await connection.channel() for _ in range(200)]
            await asyncio.gather(
                *(
                    channel.default_exchange.publish(aio_pika.Message(b"%d" % n), name)
                    for n, channel in enumerate(channels)
                )
            )
            got = set()
            while (incoming := await queue.get(fail=False, no_ack=True)) is not None:
                got.add(int(incoming.body))
            await asyncio.gather(*(channel.close() for channel in channels))
            await queue.delete()
            return got

    assert run(scenario()) == set(range(200))


def test_unroutable_message_is_returned(shared, name):
    async def scenario():
        async with await connect(shared) as connection:
            channel = await connection.channel(on_return_raises=True)
            with pytest.raises(aio_pika.exceptions.DeliveryError):
                await channel.default_exchange.publish(aio_pika.Message(b"x"), name)

    run(scenario())


def test_headers_exchange(shared, name):
    async def scenario():
        async with await connect(shared) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.HEADERS, auto_delete=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, arguments={"x-match": "all", "kind": "a", "size": 3})
            for headers in ({"kind": "a"}, {"kind": "a", "size": 3}, {"kind": "b", "size": 3}):
                message = aio_pika.Message(b"x", headers=headers)
                await exchange.publish(message, "", mandatory=False)
            incoming = await queue.get()
            assert incoming.headers == {"kind": "a", "size": 3}
            assert await queue.get(fail=False) is None

    run(scenario())


def test_rpc_pattern(shared, name):
    async def double(*, number):
        if number < 0:
            raise ValueError("negative")
        return 2 * number

    async def scenario():
        async with await connect(shared) as serving, await connect(shared) as calling:
            server = await RPC.create(await serving.channel())
            await server.register(name, double, auto_delete=True)
            client = await RPC.create(await calling.channel())
            calls = (client.call(name, {"number": n}) for n in range(200))
            assert await asyncio.gather(*calls) == [2 * n for n in range(200)]
            with pytest.raises(ValueError):
                await client.call(name, {"number": -1})

    run(scenario())


def test_worker_pattern(shared, name):
    done = []

    async def work(*, number):
        done.append(number)

    async def scenario():
        async with await connect(shared) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=1)
            master = Master(channel)
            worker = await master.create_worker(name, work, auto_delete=True)
            await asyncio.gather(*(master.create_task(name, {"number": n}) for n in range(50)))
            deadline = time.monotonic() + 30
            while len(done) < 50:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            await worker.close()

    run(scenario())
    assert sorted(done) == list(range(50))


def test_robust_connection_survives_restarts(node, name):
    """Publisher and consumer of one robust connection go on after a stop and after a kill; nothing confirmed is lost."""

    async def scenario():
        connection = await aio_pika.connect_robust(node.url(), reconnect_interval=0.2, fail_fast=False)
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(name, durable=True)
            got, confirmed, stop = set(), set(), asyncio.Event()

            async def receive(incoming):
                got.add(int(incoming.body))
                try:
                    await incoming.ack()
                except Exception:
                    # The connection went meanwhile: the message comes again.
                    pass

            async def publish():
                n = 0
                while not stop.is_set():
                    message = aio_pika.Message(b"%d" % n, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                    try:
                        await asyncio.wait_for(channel.default_exchange.publish(message, name), 30)
                        confirmed.add(n)
                    except Exception:
                        await asyncio.sleep(0.1)
                    n += 1

            async def until(condition, what):
                deadline = time.monotonic() + 45
                while not condition():
                    assert time.monotonic() < deadline, what
                    await asyncio.sleep(0.02)

            await queue.consume(receive)
            publisher = asyncio.create_task(publish())
            for how in (node.stop, node.kill):
                goal = len(confirmed) + 50
                await until(lambda: len(confirmed) >= goal, "publishing does not go on")
                await asyncio.to_thread(how)
                await asyncio.to_thread(node.start)
            goal = len(confirmed) + 50
            await until(lambda: len(confirmed) >= goal, "publishing does not go on")
            stop.set()
            await publisher
            await until(lambda: confirmed <= got, "confirmed messages were not received")

    run(scenario(), 170)
