//! The memory that a message takes once it is decoded, computed from its bytes.
//!
//! An empty element of a list takes two bytes on the wire, and hundreds of bytes in memory. A limit on
//! the length of a message is therefore no limit on memory; this one is. The bytes are read once, and nothing
//! is allocated.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use prost::{Message as _, encoding::WireType};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, MessageOptions,
    field_descriptor_proto::{Label, Type},
};

use crate::{DESCRIPTORS, raw_field::RawField};

/// A type of messages, with the sizes of its fields.
#[derive(Clone, Copy, Debug)]
pub struct MessageType(&'static Shape);

/// Sizes in bytes, on a platform with pointers of 64 bits, rounded up.
#[derive(Debug)]
struct Shape {
    /// The size of a value without what it owns elsewhere.
    own: usize,
    /// The memory that the first occurrence takes beside that of each, and the field.
    fields: BTreeMap<u32, (usize, Field)>,
}

/// The memory that each occurrence of a field takes.
#[derive(Debug)]
enum Field {
    /// The element, and its bytes.
    Bytes { element: usize },
    /// The element, and what its fields take.
    Message {
        element: usize,
        shape: &'static Shape,
    },
    /// The element, or as many as there are bytes.
    Numbers { element: usize },
}

/// A vector that grows has up to twice the size of its elements, and a node of a map is half full.
const GROWTH: usize = 2;

/// The elements for which the first one of a vector makes space, beside those counted for it.
const FIRST_OF_LIST: usize = 4 - GROWTH;

/// The same of a map: a node has eleven, and its own fields.
const FIRST_OF_MAP: usize = 12 - GROWTH;

const NUMBER: usize = 8;
const STRING: usize = 24;
const BYTES: usize = 32;
const LIST: usize = 24;

/// The depth at which decoding fails.
const DEPTH_MAX: usize = 100;

static SHAPES: LazyLock<Mutex<BTreeMap<String, &'static Shape>>> = LazyLock::new(Mutex::default);

static MESSAGES: LazyLock<BTreeMap<String, DescriptorProto>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors are generated");
    let mut messages = BTreeMap::new();
    for file in set.file {
        for message in file.message_type {
            collect(
                file.package.as_deref().unwrap_or_default(),
                message,
                &mut messages,
            );
        }
    }
    messages
});

fn collect(parent: &str, message: DescriptorProto, all: &mut BTreeMap<String, DescriptorProto>) {
    let name = format!("{parent}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested.clone(), all);
    }
    all.insert(name, message);
}

impl MessageType {
    /// Returns the type with this full name, such as `banyandb.fodc.v1.Topology`; `None` for one that
    /// this crate does not have, or that contains itself.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut shapes = SHAPES.lock().unwrap_or_else(PoisonError::into_inner);
        shape(name, &mut shapes, DEPTH_MAX).map(Self)
    }

    /// Returns an upper bound of the memory that a message takes when it is decoded, in bytes; `None` if the
    /// bytes are no message.
    #[must_use]
    pub fn decoded_size(self, message: &[u8]) -> Option<usize> {
        Some(self.0.own.saturating_add(self.0.size(message)?))
    }
}

/// Returns the shape of a type. It is kept for the whole run, as there are few types.
fn shape(
    name: &str,
    shapes: &mut BTreeMap<String, &'static Shape>,
    depth: usize,
) -> Option<&'static Shape> {
    if let Some(shape) = shapes.get(name) {
        return Some(shape);
    }
    let message = MESSAGES.get(name)?;
    let depth = depth.checked_sub(1)?;
    let mut shape = Shape {
        own: 0,
        fields: BTreeMap::new(),
    };
    for field in &message.field {
        let (inline, element, occurrence) = sizes(field, shapes, depth)?;
        shape.own += inline;
        let first = match (field.label() == Label::Repeated, is_map(field)) {
            (false, _) => 0,
            (true, false) => FIRST_OF_LIST * element,
            (true, true) => FIRST_OF_MAP * element,
        };
        let number = u32::try_from(field.number()).ok()?;
        shape.fields.insert(number, (first, occurrence));
    }
    let shape = &*Box::leak(Box::new(shape));
    shapes.insert(name.to_owned(), shape);
    Some(shape)
}

fn is_map(field: &FieldDescriptorProto) -> bool {
    let name = field.type_name().strip_prefix('.');
    let message = name.and_then(|name| MESSAGES.get(name));
    let options = message.and_then(|message| message.options.as_ref());
    options.is_some_and(MessageOptions::map_entry)
}

/// Returns the size of a field in its message, of one element, and of each occurrence.
fn sizes(
    field: &FieldDescriptorProto,
    shapes: &mut BTreeMap<String, &'static Shape>,
    depth: usize,
) -> Option<(usize, usize, Field)> {
    let is_list = field.label() == Label::Repeated;
    let element = |size: usize| if is_list { GROWTH * size } else { 0 };
    let (size, occurrence) = match field.r#type() {
        Type::String => (
            STRING,
            Field::Bytes {
                element: element(STRING),
            },
        ),
        Type::Bytes => (
            BYTES,
            Field::Bytes {
                element: element(BYTES),
            },
        ),
        Type::Message => {
            let shape = shape(field.type_name().strip_prefix('.')?, shapes, depth)?;
            // Absent or present.
            let size = shape.own + NUMBER;
            let element = element(size);
            (size, Field::Message { element, shape })
        }
        Type::Group => return None,
        _ => (
            NUMBER,
            Field::Numbers {
                element: element(NUMBER),
            },
        ),
    };
    Some((if is_list { LIST } else { size }, size, occurrence))
}

impl Shape {
    /// Returns the memory that the fields of a message take beside the message itself.
    fn size(&self, message: &[u8]) -> Option<usize> {
        let mut rest = message;
        let mut size = 0_usize;
        // The fields that have occurred, by number. Above 127 each occurrence counts as the first.
        let mut seen = 0_u128;
        while !rest.is_empty() {
            let RawField {
                number,
                wire_type,
                content,
                ..
            } = RawField::read(&mut rest)?;
            let length = content.len();
            let Some((first, field)) = self.fields.get(&number) else {
                continue;
            };
            let bit = 1_u128.checked_shl(number).unwrap_or(0);
            if seen & bit == 0 {
                size = size.saturating_add(*first);
            }
            seen |= bit;
            size = size.saturating_add(match field {
                Field::Bytes { element } => element + length,
                Field::Message { element, shape } => element + shape.size(content)?,
                Field::Numbers { element } => {
                    let is_packed = wire_type == WireType::LengthDelimited;
                    element * if is_packed { length } else { 1 }
                }
            });
        }
        Some(size)
    }
}
