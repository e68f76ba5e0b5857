//! Answers, and RabbitMQ's form of those that refuse.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use leveret_protocol::ReplyCode;
use leveret_topology::Refusal;
use serde_json::{Value, json};

/// An answer.
#[derive(Debug)]
pub enum Reply {
    /// 200 with this.
    Json(Value),
    /// 200 with this, which the client is to save under a name.
    Download(Value, String),
    /// Another status with this.
    Status(u16, Value),
    /// 204.
    Done,
    /// 201 where something was made, else 204.
    Put {
        /// It was not there before.
        made: bool,
    },
    /// 201, and where what was made is to be found, relative to what was asked.
    Created(String),
}

/// Why there is no better answer.
#[derive(Debug)]
pub struct Failure {
    /// The status.
    pub status: u16,
    /// The kind: `bad_request`, `not_authorised`, ...
    pub error: String,
    /// The reason: mostly a text.
    pub reason: Value,
}

/// What a handler comes to.
pub type Result<T = Reply, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// Of this status and kind.
    pub fn new(status: u16, error: &str, reason: impl Into<Value>) -> Failure {
        Failure {
            status,
            error: error.to_owned(),
            reason: reason.into(),
        }
    }

    /// 400.
    pub fn bad_request(reason: impl Into<Value>) -> Failure {
        Failure::new(400, "bad_request", reason)
    }

    /// 404 for a resource that is not there.
    pub fn missing() -> Failure {
        Failure::new(404, "Object Not Found", "Not Found")
    }

    /// 404 that says what is not there.
    pub fn not_found(reason: impl Into<Value>) -> Failure {
        Failure::new(404, "not_found", reason)
    }

    /// 401 for somebody who is known and may not.
    pub fn not_authorised(reason: impl Into<Value>) -> Failure {
        Failure::new(401, "not_authorised", reason)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal.reply_code {
            ReplyCode::NotFound => Failure::not_found(refusal.text),
            ReplyCode::AccessRefused | ReplyCode::NotAllowed => {
                Failure::not_authorised("Access refused.")
            }
            ReplyCode::InternalError => Failure::new(503, "service_unavailable", refusal.text),
            _ => Failure::bad_request(refusal.text),
        }
    }
}

/// An answer with a body of JSON.
pub fn json_response(status: u16, body: &Value) -> Response<Body> {
    // Values of JSON always have a text.
    let text = serde_json::to_vec(body).unwrap_or_default();
    typed(status, "application/json", text)
}

/// An answer with a body.
pub fn typed(status: u16, kind: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status_code(status);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// An answer without a body.
pub fn empty(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status_code(status);
    response
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl Reply {
    /// As it goes out.
    pub fn into_response(self) -> Response<Body> {
        match self {
            Reply::Json(value) => json_response(200, &value),
            Reply::Status(status, value) => json_response(status, &value),
            Reply::Done | Reply::Put { made: false } => empty(204),
            Reply::Put { made: true } => empty(201),
            Reply::Created(location) => {
                let mut response = empty(201);
                if let Ok(location) = HeaderValue::from_str(&location) {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                response
            }
            Reply::Download(value, name) => {
                let mut response = json_response(200, &value);
                // Line ends and quotes would end the header.
                let name: String = name
                    .chars()
                    .filter(|c| c.is_ascii_graphic() && *c != '"')
                    .collect();
                if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename={name}")) {
                    response
                        .headers_mut()
                        .insert(header::CONTENT_DISPOSITION, value);
                }
                response
            }
        }
    }
}

impl Failure {
    /// As it goes out.
    pub fn into_response(self) -> Response<Body> {
        let body = json!({"error": self.error, "reason": self.reason});
        let mut response = json_response(self.status, &body);
        if self.status == 401 {
            let realm = HeaderValue::from_static(REALM);
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, realm);
        }
        if self.status == 429 {
            let after = HeaderValue::from_static("30");
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        response
    }
}

/// What a client is asked to log in to.
pub const REALM: &str = "Basic realm=\"RabbitMQ Management\"";
