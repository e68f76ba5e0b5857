//! Users, the first start, and authentication.

use super::KeySpec;
use crate::config::{Mechanism, PasswordHashing};
use crate::kind::Kind;

/// Backends other than the node's own user database would be a hole if they were ignored.
const INTERNAL: Kind = Kind::Choice(&[
    ("internal", |_| ()),
    ("rabbit_auth_backend_internal", |_| ()),
]);

pub(super) const KEYS: &[KeySpec] = &[
    KeySpec::list(
        "auth_mechanisms.$name",
        "PLAIN, AMQPLAIN",
        (
            |c| c.access.mechanisms.clear(),
            Kind::Choice(&[
                ("PLAIN", |c| c.access.mechanisms.push(Mechanism::Plain)),
                ("AMQPLAIN", |c| {
                    c.access.mechanisms.push(Mechanism::AmqPlain)
                }),
                ("EXTERNAL", |c| {
                    c.access.mechanisms.push(Mechanism::External)
                }),
            ]),
        ),
        "SASL mechanisms, in the order they are offered.",
    ),
    KeySpec::used(
        "auth_backends.$num",
        "internal",
        INTERNAL,
        "Where users are. There is one place: the node itself.",
    ),
    KeySpec::used(
        "auth_backends.$num.authn",
        "internal",
        INTERNAL,
        "As `auth_backends.$num`.",
    ),
    KeySpec::used(
        "auth_backends.$num.authz",
        "internal",
        INTERNAL,
        "As `auth_backends.$num`.",
    ),
    KeySpec::list(
        "loopback_users.$user",
        "guest",
        (
            |c| c.access.loopback_users.clear(),
            Kind::NamedFlag(|c, user, on| {
                if on {
                    c.access.loopback_users.push(user.to_owned());
                }
            }),
        ),
        "Users that may only log in from a loopback address. Naming any, with `true` or `false`, replaces the list.",
    ),
    KeySpec::used(
        "loopback_users",
        "",
        Kind::Choice(&[("none", |c| c.access.loopback_users.clear())]),
        "Everyone may log in from everywhere.",
    ),
    KeySpec::used(
        "default_vhost",
        "/",
        Kind::Text(|c, text| c.access.default_vhost = text),
        "The virtual host that is made on an empty node.",
    ),
    KeySpec::used(
        "default_user",
        "guest",
        Kind::Text(|c, text| c.access.default_user = text),
        "The user that is made on an empty node.",
    ),
    KeySpec::used(
        "default_pass",
        "guest",
        Kind::Text(|c, text| c.access.default_pass = text),
        "That user's password. `$(<file)` reads it from a file.",
    ),
    KeySpec::list(
        "default_user_tags.$tag",
        "administrator",
        (
            |c| c.access.default_user_tags.clear(),
            Kind::NamedFlag(|c, tag, on| {
                if on {
                    c.access.default_user_tags.push(tag.to_owned());
                }
            }),
        ),
        "That user's tags. Naming any replaces the list.",
    ),
    KeySpec::used(
        "default_permissions.configure",
        ".*",
        Kind::Text(|c, text| c.access.default_permissions.configure = text),
        "What that user may declare and delete: a regular expression.",
    ),
    KeySpec::used(
        "default_permissions.write",
        ".*",
        Kind::Text(|c, text| c.access.default_permissions.write = text),
        "What that user may publish to.",
    ),
    KeySpec::used(
        "default_permissions.read",
        ".*",
        Kind::Text(|c, text| c.access.default_permissions.read = text),
        "What that user may consume from.",
    ),
    KeySpec::used(
        "password_hashing_module",
        "rabbit_password_hashing_sha256",
        Kind::Choice(&[
            ("rabbit_password_hashing_sha256", |c| {
                c.access.password_hashing = PasswordHashing::Sha256;
            }),
            ("rabbit_password_hashing_sha512", |c| {
                c.access.password_hashing = PasswordHashing::Sha512;
            }),
            ("rabbit_password_hashing_md5", |c| {
                c.access.password_hashing = PasswordHashing::Md5
            }),
        ]),
        "How passwords set from now on are hashed.",
    ),
    KeySpec::used(
        "load_definitions",
        "",
        Kind::Existing(|c, path| c.definitions.path = Some(path)),
        "A definitions file, or a directory of them, imported at every start.",
    ),
    KeySpec::used(
        "definitions.local.path",
        "",
        Kind::Existing(|c, path| c.definitions.path = Some(path)),
        "As `load_definitions`.",
    ),
    KeySpec::used(
        "management.load_definitions",
        "",
        Kind::Existing(|c, path| {
            c.definitions.path.get_or_insert(path);
        }),
        "As `load_definitions`, when that is not given.",
    ),
    KeySpec::used(
        "definitions.import_backend",
        "local_filesystem",
        Kind::Choice(&[
            ("local_filesystem", |_| ()),
            ("local", |_| ()),
            ("rabbit_definitions_import_local_filesystem", |_| ()),
            ("rabbitmq_definitions_import_local_filesystem", |_| ()),
        ]),
        "Where definitions come from. There is one place: files.",
    ),
    KeySpec::used(
        "definitions.skip_if_unchanged",
        "false",
        Kind::Flag(|c, on| c.definitions.skip_if_unchanged = on),
        "Do not import again what was imported already.",
    ),
];
