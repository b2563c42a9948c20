//! Files that hold secrets by their names. They are neither read nor, if an editor has them open, copied from elsewhere.

use std::path::Path;

/// Names, in lower case, with `*` for the rest.
const NAMES: [&str; 29] = [
    ".env*",
    "*.env",
    ".envrc",
    ".netrc",
    "_netrc",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    ".htpasswd",
    ".git-credentials",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "*.asc",
    "*.gpg",
    "*.tfvars",
    "*.tfstate",
    "id_rsa*",
    "id_ed25519*",
    "id_ecdsa*",
    "id_dsa*",
    "credentials*",
    "*credentials.json",
    "secret*",
    "*.secret*",
];

/// Folders, in lower case, whose files all count as secret.
const FOLDERS: [&str; 5] = [".ssh", ".aws", ".gnupg", ".kube", "secrets"];

/// Whether a file looks as if it held secrets.
pub fn is_secret(path: &Path) -> bool {
    let lower = |part: &std::ffi::OsStr| part.to_string_lossy().to_lowercase();
    let matches = |name: &str, pattern: &&str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(middle), Some(_)) => name.contains(middle.trim_end_matches('*')),
        (Some(end), None) => name.ends_with(end),
        (None, Some(start)) => name.starts_with(start),
        (None, None) => name == *pattern,
    };
    let name = path.file_name().map(lower).unwrap_or_default();
    let mut folders = path.parent().into_iter().flat_map(Path::components);
    NAMES.iter().any(|pattern| matches(&name, pattern))
        || folders.any(|folder| FOLDERS.contains(&lower(folder.as_os_str()).as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_by_name() {
        let secret = [
            ".env",
            "web/.env.local",
            "prod.env",
            "a/.ssh/config",
            "server.PEM",
            "id_rsa",
            "deploy/secrets/db.yaml",
            "credentials.json",
            "gcp-credentials.json",
            "secrets.toml",
            "app.secret.ts",
            "terraform.tfvars",
        ];
        for path in secret {
            assert!(is_secret(Path::new(path)), "{path}");
        }
        for path in [
            "environment.ts",
            "keys.rs",
            "src/token.rs",
            "env.py",
            "pem.go",
            "README.md",
        ] {
            assert!(!is_secret(Path::new(path)), "{path}");
        }
    }
}
