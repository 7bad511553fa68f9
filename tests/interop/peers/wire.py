"""The messages of plain.proto, generated when they are first used; those of FODC in the same way."""

import importlib.util
import pathlib
import sys
import tempfile

import grpc_tools
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_tools import protoc

HERE = pathlib.Path(__file__).parent.parent
# The folder of the well-known types.
COMMON = pathlib.Path(grpc_tools.__file__).parent / "_proto"


def _generate(proto: pathlib.Path, folder: str) -> None:
    paths = [f"-I{proto.parent}", f"-I{COMMON}"]
    code = protoc.main(
        ["protoc", *paths, f"--python_out={folder}", f"--grpc_python_out={folder}", str(proto)]
    )
    if code != 0:
        raise RuntimeError(f"protoc failed for {proto}")


def _load(name: str, folder: str):
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(folder) / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def generated(proto: str):
    """The messages and the services of a file beside the tests."""
    with tempfile.TemporaryDirectory() as folder:
        _generate(HERE / proto, folder)
        name = proto.removesuffix(".proto")
        return _load(f"{name}_pb2", folder), _load(f"{name}_pb2_grpc", folder)


messages, service = generated("plain.proto")


def unknown_fields(message):
    """The numbers of the fields that this version does not define, in the message and inside it."""
    numbers = {field.field_number for field in UnknownFieldSet(message)}
    for field, found in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for one in found if field.is_repeated else [found]:
            numbers |= unknown_fields(one)
    return numbers


def value(of):
    """A Value of the kind that fits; None leaves the kind unset."""
    if of is None:
        return messages.Value()
    if isinstance(of, bool):
        return messages.Value(bool_value=of)
    if isinstance(of, int):
        return messages.Value(int_value=of)
    if isinstance(of, float):
        return messages.Value(double_value=of)
    if isinstance(of, str):
        return messages.Value(string_value=of)
    return messages.Value(list_value=messages.ListValue(values=[value(one) for one in of]))


def subscribe(subscription_id, collection, *filters, database="default"):
    """A subscribe message; filters are (field, op, value)."""
    return messages.GatewayMessage(
        subscribe=messages.SubscribeRequest(
            subscription_id=subscription_id,
            collection=collection,
            database=database,
            filters=[messages.Filter(field=f, op=op, value=value(v)) for f, op, v in filters],
        )
    )


def unsubscribe(subscription_id):
    return messages.GatewayMessage(
        unsubscribe=messages.UnsubscribeRequest(subscription_id=subscription_id)
    )


def heartbeat(gateway_id="", timestamp=0):
    return messages.GatewayMessage(
        heartbeat=messages.Heartbeat(gateway_id=gateway_id, timestamp=timestamp)
    )
