//! `POST /api/storage/resend`: sends to MongoDB again what an operator names. The worker does it; the status tells how far it is.

use serde::Deserialize;
use serde_json::json;

use crate::message::Timestamp;
use crate::worker::{MongoHealth, MongoStatus, ResendTask};

use super::body::{self, Text};
use super::shape::{FieldKind, Shape};
use super::{Problem, Reply, RequestHead, content, query};

const RESEND: &Shape = &[("since", FieldKind::MaybeText), ("dead_letters", FieldKind::MaybeBool)];

#[derive(Deserialize)]
struct ResendBody<'a> {
    #[serde(borrow)]
    since: Option<Text<'a>>,
    dead_letters: Option<bool>,
}

/// `POST /api/storage/resend` with `{"dead_letters":true}` or `{"since":"2025-11-28"}`. Replies 202, with what `mongo.resend` of
/// the status then tells:
///
/// ```json
/// {"task":"recorded","since":"2025-11-28T00:00:00.000000+00:00","running":true,"began_at":"…","ended_at":null,
///  "stored":0,"already_stored":0,"refused":0,"expired":0,"unreadable":0,"lost":0,"reason":null,"sent_all":false}
/// ```
pub fn ask(mongo: &MongoStatus, head: &RequestHead<'_>, body: &[u8]) -> Result<Reply, Problem> {
    query::none_of(head.query, RESEND)?;
    let body = content::json(head, body, RESEND)?;
    let asked: ResendBody<'_> = body::object(&body, RESEND)?;
    let task = match (asked.since.as_deref(), asked.dead_letters.unwrap_or(false)) {
        (None, true) => ResendTask::DeadLetters,
        (Some(since), false) => {
            let since = Timestamp::parse_day_or_time(since);
            let rule = "must be a day (2025-11-28) or an RFC 3339 time (2025-11-28T01:23:45Z)";
            ResendTask::Recorded { since: since.ok_or_else(|| Problem::field("since", rule))? }
        }
        _ => return Err(Problem::field("since", "or `dead_letters: true` must be given, one of the two")),
    };
    let view = mongo.view();
    match view.state {
        MongoHealth::Disabled => {
            let detail = "mongo.enabled is false, so nothing can be sent; enable it and restart the server";
            return Err(Problem::new(409, "mongo_disabled", detail));
        }
        MongoHealth::Error => {
            let why = view.reason.unwrap_or_else(|| "MongoDB does not work".to_owned());
            let detail = format!("{why}; nothing was sent, and nothing is lost: ask again when mongo.status is ok");
            return Err(Problem::unavailable("mongo_unavailable", detail, 5));
        }
        MongoHealth::Connecting | MongoHealth::Ok => {}
    }
    match mongo.resends().ask(task) {
        Ok(begun) => Ok(super::json(202, &json!(begun))),
        Err(other) => {
            let what = match other.task {
                ResendTask::DeadLetters => "the dead letters are being sent".to_owned(),
                ResendTask::Recorded { since } => format!("what was recorded since {since} is being sent"),
            };
            Err(Problem::new(409, "resend_running", format!("{what}; ask again when that has ended")))
        }
    }
}
