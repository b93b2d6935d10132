//! Conversations in the shapes that strict templates ask for: one system message at the front, or none; users and
//! assistants in turn.

use serde_json::{Map, Value as Json};

/// Another shape of the same conversation. The texts stay in their order, but for those of the system.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// One system message, in front.
    SystemFirst,
    /// As SystemFirst, and neighbours of one role are one message.
    Alternating,
    /// As Alternating, and the system's text begins the first message of the user.
    WithoutSystem,
}

/// From the nearest to what was sent to the farthest.
pub const SHAPES: [Shape; 3] = [Shape::SystemFirst, Shape::Alternating, Shape::WithoutSystem];

pub fn reshaped(messages: &[Json], shape: Shape) -> Vec<Json> {
    let (system, mut rest): (Vec<Json>, Vec<Json>) = messages.iter().cloned().partition(is_system);
    let system = system.into_iter().reduce(joined);
    match shape {
        Shape::SystemFirst => {}
        Shape::Alternating => rest = alternating(rest),
        Shape::WithoutSystem => {
            rest = alternating(rest);
            if let Some(mut system) = system {
                match rest.iter().position(|message| role(message) == "user") {
                    Some(user) => {
                        let text = std::mem::take(&mut rest[user]);
                        system["role"] = "user".into();
                        rest[user] = joined(system, text);
                    }
                    None => {
                        system["role"] = "user".into();
                        rest.insert(0, system);
                    }
                }
            }
            return rest;
        }
    }
    system
        .map(|mut message| {
            message["role"] = "system".into();
            message
        })
        .into_iter()
        .chain(rest)
        .collect()
}

pub fn role(message: &Json) -> &str {
    message["role"].as_str().unwrap_or("")
}

fn is_system(message: &Json) -> bool {
    matches!(role(message), "system" | "developer")
}

fn alternating(messages: Vec<Json>) -> Vec<Json> {
    let mut out: Vec<Json> = Vec::with_capacity(messages.len());
    for message in messages {
        match out.last_mut() {
            Some(last) if role(last) == role(&message) && matches!(role(last), "user" | "assistant") => {
                *last = joined(std::mem::take(last), message);
            }
            _ => out.push(message),
        }
    }
    out
}

/// One message of two: texts with an empty line between them, lists one after the other.
fn joined(first: Json, second: Json) -> Json {
    let (Json::Object(mut out), Json::Object(second)) = (first, second) else { return Json::Null };
    for (key, value) in second {
        let before = out.remove(&key).unwrap_or(Json::Null);
        let value = match key.as_str() {
            "content" | "reasoning_content" | "thinking" | "reasoning" | "tool_calls" => {
                joined_content(before, value)
            }
            _ if before.is_null() => value,
            _ => before,
        };
        out.insert(key, value);
    }
    Json::Object(out)
}

fn joined_content(first: Json, second: Json) -> Json {
    let nothing = |value: &Json| match value {
        Json::Null => true,
        Json::String(text) => text.is_empty(),
        Json::Array(list) => list.is_empty(),
        _ => false,
    };
    match (first, second) {
        (first, second) if nothing(&first) => second,
        (first, second) if nothing(&second) => first,
        (Json::String(first), Json::String(second)) => Json::String(format!("{first}\n\n{second}")),
        (first, second) => Json::Array(parts(first).into_iter().chain(parts(second)).collect()),
    }
}

fn parts(content: Json) -> Vec<Json> {
    match content {
        Json::Array(list) => list,
        text => {
            let mut part = Map::new();
            part.insert("type".into(), "text".into());
            part.insert("text".into(), text);
            vec![Json::Object(part)]
        }
    }
}
