"""Photographs in the files of other libraries, written independently of the readers."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Value = bytes | str | int | float | list[Any]


def write_tar(path: Path, members: Mapping[str, str | bytes], mode: str = "w") -> Path:
    """A tar of files in the order of `members`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_tfrecord(path: Path, examples: Iterable[Mapping[str, Value] | bytes]) -> Path:
    """A TFRecord of `tf.train.Example`s, serialized by Google's protobuf; or of records as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for each in examples:
            data = each if isinstance(each, bytes) else example(each)
            length = struct.pack("<Q", len(data))
            file.write(length + _checksum(length) + data + _checksum(data))
    return path


def example(features: Mapping[str, Value]) -> bytes:
    """One `tf.train.Example`, serialized."""
    message = _example_class()()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = message.features.feature[name]
        if isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(each.encode() if isinstance(each, str) else each for each in values)
    return bytes(message.SerializeToString())


def _example_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    lists = (("BytesList", field.TYPE_BYTES), ("FloatList", field.TYPE_FLOAT), ("Int64List", field.TYPE_INT64))
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(lists, 1):
        message = file.message_type.add(name=name)
        message.field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
        snake = {"BytesList": "bytes_list", "FloatList": "float_list", "Int64List": "int64_list"}[name]
        feature.field.add(
            name=snake, number=number, type=field.TYPE_MESSAGE, type_name=f".tf.{name}", label=1, oneof_index=0
        )
    file.message_type.append(feature)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=1)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, type_name=".tf.Feature", label=1)
    features.field.add(
        name="feature", number=1, type=field.TYPE_MESSAGE, type_name=".tf.Features.FeatureEntry", label=3
    )
    whole = file.message_type.add(name="Example")
    whole.field.add(name="features", number=1, type=field.TYPE_MESSAGE, type_name=".tf.Features", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


def _checksum(data: bytes) -> bytes:
    """CRC-32C bit by bit, masked."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
