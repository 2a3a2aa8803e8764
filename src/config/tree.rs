//! YAML and JSON as one tree whose nodes know their place.
//!
//! A scalar stays text: what it means is decided by the key that reads it, so a price never passes through a float. Doubled keys
//! are faults, all of them; anything that is no YAML at all ends the reading with one fault. Sizes are bounded: text, depth, and
//! nodes, aliases counted in full. Tags and keys that are no scalars are refused. Nodes have no `Debug`, because they hold secrets.

use crate::config::fault::Fault;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use std::collections::HashMap;

/// Bytes of a file.
pub const MAX_TEXT: usize = 4 << 20;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 100_000;
/// Keys in one map: they are compared with each other.
const MAX_KEYS: usize = 10_000;

/// A place in the file, counted from 1; 0 where there is no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub line: u32,
    pub column: u32,
}

/// A value and where it begins.
#[derive(Clone)]
pub struct Node {
    pub at: Mark,
    pub value: Value,
}

#[derive(Clone)]
pub enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A scalar as it is written, before variables are put in.
#[derive(Clone)]
pub struct Scalar {
    pub text: String,
    /// Quoted and block scalars are text, whatever they look like.
    pub quoted: bool,
}

/// A key with its value.
#[derive(Clone)]
pub struct Entry {
    pub key: String,
    pub at: Mark,
    pub value: Node,
}

impl Node {
    fn new(at: Mark, value: Value) -> Self {
        Self { at, value }
    }

    /// What the node is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(s) if s.is_null() => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map of keys",
        }
    }
}

impl Scalar {
    /// Whether the scalar stands for no value: empty, `~` or `null`, unquoted.
    #[must_use]
    pub fn is_null(&self) -> bool {
        !self.quoted && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

/// Reads one YAML document. Doubled keys go into `faults`; the first of them counts.
///
/// # Errors
/// The one fault after which nothing more can be read.
pub fn from_yaml(file: &str, text: &str, faults: &mut Vec<Fault>) -> Result<Node, Fault> {
    if text.len() > MAX_TEXT {
        return Err(Fault::of_file(file, format!("is larger than {} MiB", MAX_TEXT >> 20)));
    }
    let mut builder = Builder { file, stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None, faults };
    for event in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        match event {
            Ok((event, span)) => builder.event(event, mark(span.start))?,
            Err(e) => return Err(builder.fault(mark(*e.marker()), format!("not valid YAML: {}", e.info()))),
        }
    }
    builder.root.ok_or_else(|| Fault::of_file(file, "is empty; it must hold a map of keys".into()))
}

fn mark(m: Marker) -> Mark {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Mark { line: number(m.line()), column: number(m.col()).saturating_add(1) }
}

/// A collection whose end has not come yet.
struct Open {
    at: Mark,
    anchor: usize,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    /// The key waits for its value.
    Map(Vec<Entry>, Option<(String, Mark)>),
}

struct Builder<'a> {
    file: &'a str,
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
    faults: &'a mut Vec<Fault>,
}

impl Builder<'_> {
    fn fault(&self, at: Mark, message: String) -> Fault {
        Fault { file: self.file.into(), line: at.line, column: at.column, path: self.path(), message }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.stack {
            match &open.items {
                Items::List(items) => path.push_str(&format!("[{}]", items.len())),
                Items::Map(_, Some((key, _))) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Items::Map(_, None) => {}
            }
        }
        path
    }

    fn event(&mut self, event: Event<'_>, at: Mark) -> Result<(), Fault> {
        if let Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) =
            event
        {
            return Err(self.fault(at, "YAML tags are not allowed".into()));
        }
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(self.fault(at, "a second YAML document begins; only one is allowed".into()))
            }
            Event::DocumentStart(_) => Ok(()),
            Event::Scalar(text, style, anchor, _) => self.scalar(&text, style != ScalarStyle::Plain, anchor, at),
            Event::SequenceStart(anchor, _) => self.open(at, anchor, Items::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.open(at, anchor, Items::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open { at, anchor, items: Items::List(items) }) => {
                    self.add(Node::new(at, Value::List(items)), anchor)
                }
                Some(Open { at, anchor, items: Items::Map(entries, _) }) => {
                    self.add(Node::new(at, Value::Map(entries)), anchor)
                }
                None => Err(self.fault(at, "not valid YAML: an end without a beginning".into())),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) if self.awaits_key() => match node.value {
                    Value::Scalar(s) => self.scalar(&s.text, s.quoted, 0, at),
                    Value::List(_) | Value::Map(_) => Err(self.key_fault(at)),
                },
                Some(node) => {
                    let (nodes, depth) = extent(&node);
                    self.count(nodes, at)?;
                    self.check_depth(depth, at)?;
                    self.add(node, 0)
                }
                None => Err(self.fault(at, "an alias must refer to an anchor that is complete before it".into())),
            },
        }
    }

    fn awaits_key(&self) -> bool {
        matches!(self.stack.last(), Some(Open { items: Items::Map(_, None), .. }))
    }

    fn key_fault(&self, at: Mark) -> Fault {
        self.fault(at, "a key must be plain text".into())
    }

    fn count(&mut self, nodes: usize, at: Mark) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(self.fault(at, format!("more than {MAX_NODES} values, aliases counted in full")));
        }
        Ok(())
    }

    fn check_depth(&self, deeper: usize, at: Mark) -> Result<(), Fault> {
        if self.stack.len().saturating_add(deeper) > MAX_DEPTH {
            return Err(self.fault(at, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        Ok(())
    }

    fn open(&mut self, at: Mark, anchor: usize, items: Items) -> Result<(), Fault> {
        if self.awaits_key() {
            return Err(self.key_fault(at));
        }
        self.check_depth(1, at)?;
        self.count(1, at)?;
        self.stack.push(Open { at, anchor, items });
        Ok(())
    }

    fn scalar(&mut self, text: &str, quoted: bool, anchor: usize, at: Mark) -> Result<(), Fault> {
        self.count(1, at)?;
        let scalar = Scalar { text: text.to_owned(), quoted };
        if !self.awaits_key() {
            return self.add(Node::new(at, Value::Scalar(scalar)), anchor);
        }
        if anchor != 0 {
            self.anchors.insert(anchor, Node::new(at, Value::Scalar(scalar)));
        }
        if let Some(Open { items: Items::Map(_, key), .. }) = self.stack.last_mut() {
            *key = Some((text.to_owned(), at));
        }
        Ok(())
    }

    /// Puts a finished node where it belongs: into the open collection, or at the top.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let path = self.path();
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open { items: Items::List(items), .. }) => items.push(node),
            Some(Open { items: Items::Map(entries, key), .. }) => {
                let Some((key, at)) = key.take() else {
                    return Err(self.key_fault(node.at));
                };
                if entries.len() >= MAX_KEYS {
                    return Err(self.fault(at, format!("more than {MAX_KEYS} keys in one map")));
                }
                match entries.iter().find(|e| e.key == key) {
                    None => entries.push(Entry { key, at, value: node }),
                    Some(first) => self.faults.push(Fault {
                        file: self.file.into(),
                        line: at.line,
                        column: at.column,
                        path,
                        message: format!(
                            "is already there in line {}; a key or name may stand only once",
                            first.at.line
                        ),
                    }),
                }
            }
        }
        Ok(())
    }
}

/// Nodes and levels of the subtree, itself included. It is no deeper than [`MAX_DEPTH`], so neither is the recursion.
fn extent(node: &Node) -> (usize, usize) {
    let children: &mut dyn Iterator<Item = &Node> = match &node.value {
        Value::Scalar(_) => return (1, 0),
        Value::List(items) => &mut items.iter(),
        Value::Map(entries) => &mut entries.iter().map(|e| &e.value),
    };
    let (nodes, depth) = children
        .map(extent)
        .fold((0, 0), |(n, d): (usize, usize), (nodes, depth)| (n.saturating_add(nodes), d.max(depth)));
    (nodes.saturating_add(1), depth + 1)
}

/// The tree of a JSON value, without places.
///
/// # Errors
/// What is too much: depth or size.
pub fn from_json(value: &serde_json::Value) -> Result<Node, String> {
    fn build(value: &serde_json::Value, depth: usize, nodes: &mut usize) -> Result<Node, String> {
        *nodes += 1;
        if depth > MAX_DEPTH || *nodes > MAX_NODES {
            return Err("the value is nested too deep or too large".into());
        }
        let plain = |text: String| Value::Scalar(Scalar { text, quoted: false });
        let value = match value {
            serde_json::Value::Null => plain("null".into()),
            serde_json::Value::Bool(b) => plain(b.to_string()),
            // The float's own text has no exponent, which prices do not know.
            serde_json::Value::Number(n) => match n.as_f64().filter(|_| n.is_f64()) {
                Some(float) => plain(float.to_string()),
                None => plain(n.to_string()),
            },
            serde_json::Value::String(s) => Value::Scalar(Scalar { text: s.clone(), quoted: true }),
            serde_json::Value::Array(items) => {
                Value::List(items.iter().map(|item| build(item, depth + 1, nodes)).collect::<Result<_, _>>()?)
            }
            serde_json::Value::Object(map) => {
                let entry = |(key, value): (&String, &serde_json::Value)| {
                    let value = build(value, depth + 1, nodes)?;
                    Ok(Entry { key: key.clone(), at: Mark::default(), value })
                };
                Value::Map(map.iter().map(entry).collect::<Result<_, String>>()?)
            }
        };
        Ok(Node::new(Mark::default(), value))
    }
    build(value, 0, &mut 0)
}
