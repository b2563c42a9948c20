//! Settings: one schema, from which the defaults, the checks and the editors' settings pages all come.
//!
//! Settings are layered, each source over the one before: the defaults, the user's file, the editor, the
//! command line. Sources are JSON values until the end, so a layer says only what it changes. An unknown
//! key is a warning; a value of the wrong kind is an error that names the key, and the value below stays.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use surmise_engine::request::Speculation;

/// Every setting of Surmise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The model to run: `embedded` for the one inside the binary, or the path of a .gguf file or of a folder with safetensors.
    pub model: String,
    /// What is suggested, and when.
    pub completion: CompletionConfig,
    /// How the model is run.
    pub engine: EngineConfig,
}

/// What is suggested, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CompletionConfig {
    /// Whether anything is suggested at all.
    pub enabled: bool,
    /// Whether suggestions come by themselves while you type; if not, only when you ask for one.
    pub automatic: bool,
    /// Languages in which nothing is suggested, by their names, such as `markdown`.
    pub disabled_languages: Vec<String>,
    /// How far a suggestion reaches.
    pub extent: ExtentConfig,
    /// Whether suggestions may repeat what stands in files that are not open: of the editor's folders, those near the file at hand, less what Git ignores, hidden files and files with secrets.
    pub nearby_files: bool,
    /// Most tokens in a suggestion.
    #[schemars(range(min = 1, max = 1024))]
    pub max_tokens: usize,
    /// Most tokens of the file that the model reads; more is better informed, and slower.
    #[schemars(range(min = 64, max = 65536))]
    pub prompt_tokens: usize,
    /// How long the model may read at a place that is new to it, in milliseconds. One that cannot read `prompt_tokens` by then gets fewer,
    /// a fourth of them at least.
    #[schemars(range(min = 10, max = 600_000))]
    pub prompt_ms: u64,
    /// How sure the model must be that all of a suggestion is right, from 0 (show everything) to 1 (show
    /// nothing). Of an unsure one its sure beginning is shown. An explicit request is answered whatever the model thinks of it.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_confidence: f64,
}

/// How far a suggestion reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExtentConfig {
    /// A block where one begins, a statement on an empty line, the rest of the line elsewhere.
    Auto,
    /// To the end of the line.
    Line,
    /// To the end of the statement.
    Statement,
    /// To the end of the enclosing block.
    Block,
}

/// How the model is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EngineConfig {
    /// Threads that compute; 0 takes one for each physical core, but leaves one of more than four to the editor.
    #[schemars(range(min = 0, max = 512))]
    pub threads: usize,
    /// Tokens that prompt and suggestion may have together; 0 takes what the model was trained for.
    pub context_length: usize,
    /// Memory for keys and values of past tokens, in bytes, taken as it is used; 0 takes enough for 32 full contexts, 512 MiB at most.
    pub kv_cache_bytes: usize,
    /// Number format of the keys and values of past tokens: `q8_0` takes about half the memory of `f16` and is a little less exact.
    pub kv_cache_type: KvCacheType,
    /// A smaller model that drafts for the other one, as the path of a .gguf file, of a folder with safetensors, or of an EAGLE-3 head; empty for none. The text is the same either way.
    pub draft_model: String,
    /// Levels of the trees that an EAGLE-3 head drafts: passes of the head for each draft.
    #[schemars(range(min = 1, max = 32))]
    pub eagle_steps: usize,
    /// Nodes of each level that an EAGLE-3 head follows, and candidates after each; 1 drafts chains. With many levels fewer are followed: a tree has room for 64.
    #[schemars(range(min = 1, max = 64))]
    pub eagle_top_k: usize,
    /// Most tokens of a tree of an EAGLE-3 head that the model verifies at once, the last one of the text counted.
    #[schemars(range(min = 2, max = 65))]
    pub eagle_draft_tokens: usize,
    /// Type that large matrices of 16 or 32 bits, or in FP8, are quantised to as the model is loaded: `q8_0` takes about half the memory of 16 bits, `q4_k` a quarter. Matrices that are quantised already stay as they are.
    pub quantize: Quantize,
    /// Whether tokens are drafted and then verified several at a time. The text is the same either way.
    pub speculation: bool,
}

/// What matrices are quantised to as a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Quantize {
    /// Nothing: they are multiplied as the files have them.
    #[serde(rename = "none")]
    None,
    /// 8-bit integers with a scale for each 32: hardly less exact.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 6.6 bits a weight.
    #[serde(rename = "q6_k")]
    Q6K,
    /// 5.5 bits a weight.
    #[serde(rename = "q5_k")]
    Q5K,
    /// 4.5 bits a weight: what most people download.
    #[serde(rename = "q4_k")]
    Q4K,
    /// 4.5 bits a weight in a simpler form: less exact than `q4_k`, and faster.
    #[serde(rename = "q4_0")]
    Q4_0,
}

/// Number format of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KvCacheType {
    /// Half precision.
    #[serde(rename = "f16")]
    F16,
    /// 8-bit integers with a scale for each 32.
    #[serde(rename = "q8_0")]
    Q8_0,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: "embedded".to_owned(),
            completion: CompletionConfig::default(),
            engine: EngineConfig::default(),
        }
    }
}

impl Default for CompletionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            automatic: true,
            disabled_languages: Vec::new(),
            extent: ExtentConfig::Auto,
            nearby_files: true,
            max_tokens: 64,
            prompt_tokens: 1024,
            prompt_ms: 200,
            min_confidence: 0.2,
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            context_length: 0,
            kv_cache_bytes: 0,
            kv_cache_type: KvCacheType::F16,
            draft_model: String::new(),
            eagle_steps: 5,
            eagle_top_k: 8,
            eagle_draft_tokens: 32,
            quantize: Quantize::None,
            speculation: true,
        }
    }
}

impl EngineConfig {
    /// How drafts are made under these settings.
    pub fn speculation(&self) -> Speculation {
        if self.speculation {
            Speculation::Auto
        } else {
            Speculation::Off
        }
    }
}

/// Settings of one source, and where they came from.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The source, as a person would look for it: a path, or `editor settings`.
    pub source: String,
    /// A JSON object with some of the keys of [`Config`]; `null` anywhere means "not set here".
    pub settings: Value,
}

impl Layer {
    /// A source that changes nothing.
    pub fn empty(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            settings: Value::Null,
        }
    }
}

/// Something about a setting that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The source it came from.
    pub source: String,
    /// The key, dotted: `completion.max_tokens`.
    pub key: String,
    /// What is wrong with it.
    pub kind: ProblemKind,
}

/// What can be wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProblemKind {
    /// No such key: a warning.
    Unknown {
        /// The known key that looks most like it.
        similar: Option<String>,
    },
    /// The value cannot be used: an error; the value of the source below stays.
    Invalid {
        /// What was expected, what was found.
        reason: String,
    },
    /// The source could not be read at all.
    Unreadable {
        /// What the reader said.
        reason: String,
    },
}

impl Problem {
    /// Whether the user's wish was not followed, rather than merely not understood.
    pub fn is_error(&self) -> bool {
        !matches!(self.kind, ProblemKind::Unknown { .. })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, key, kind } = self;
        match kind {
            ProblemKind::Unknown {
                similar: Some(similar),
            } => {
                write!(f, "{source}: unknown setting `{key}`; did you mean `{similar}`?")
            }
            ProblemKind::Unknown { similar: None } => {
                write!(
                    f,
                    "{source}: unknown setting `{key}`; `surmise config schema` lists all"
                )
            }
            ProblemKind::Invalid { reason } => write!(f, "{source}: `{key}`: {reason}"),
            ProblemKind::Unreadable { reason } => write!(f, "{source}: {reason}"),
        }
    }
}

impl Config {
    /// Lays `layers` over the defaults, in order, and reports what could not be followed.
    pub fn from_layers(layers: &[Layer]) -> (Self, Vec<Problem>) {
        let mut config = Self::default();
        let mut problems = Vec::new();
        for layer in layers {
            match &layer.settings {
                Value::Null => {}
                Value::Object(settings) => config.lay_over(settings, "", &layer.source, &mut problems),
                other => problems.push(Problem {
                    source: layer.source.clone(),
                    key: String::new(),
                    kind: ProblemKind::Unreadable {
                        reason: format!("expected an object of settings, found {other}"),
                    },
                }),
            }
        }
        (config, problems)
    }

    /// JSON schema of all settings, as `surmise config schema` prints it.
    pub fn schema() -> Value {
        schemars::schema_for!(Self).to_value()
    }

    fn lay_over(
        &mut self,
        settings: &Map<String, Value>,
        group: &str,
        source: &str,
        problems: &mut Vec<Problem>,
    ) {
        for (name, value) in settings {
            let key = if group.is_empty() {
                name.clone()
            } else {
                format!("{group}.{name}")
            };
            let kind = match (self.to_json().pointer(&pointer(&key)), value) {
                (_, Value::Null) => continue,
                (Some(Value::Object(_)), Value::Object(members)) => {
                    self.lay_over(members, &key, source, problems);
                    continue;
                }
                (Some(_), value) => match self.with(&key, value.clone()) {
                    Ok(config) => {
                        *self = config;
                        continue;
                    }
                    Err(reason) => ProblemKind::Invalid { reason },
                },
                (None, _) => ProblemKind::Unknown {
                    similar: self.similar_key(&key),
                },
            };
            problems.push(Problem {
                source: source.to_owned(),
                key,
                kind,
            });
        }
    }

    /// These settings with `value` at `key`, if it is of the right kind and in range.
    fn with(&self, key: &str, value: Value) -> Result<Self, String> {
        let mut settings = self.to_json();
        if let Some(place) = settings.pointer_mut(&pointer(key)) {
            *place = value.clone();
        }
        let config: Self = serde_json::from_value(settings).map_err(|error| error.to_string())?;
        check_range(key, &value)?;
        Ok(config)
    }

    fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The known key with the most letters in common with `key`, if that is most of them.
    fn similar_key(&self, key: &str) -> Option<String> {
        let mut keys = Vec::new();
        collect_keys(&self.to_json(), "", &mut keys);
        let distance = |known: &String| edit_distance(known, key);
        let nearest = keys.into_iter().min_by_key(distance)?;
        (distance(&nearest) <= (key.len() / 3).max(2)).then_some(nearest)
    }
}

/// The user's settings file: `$XDG_CONFIG_HOME/surmise/config.toml`, or its like on the system.
pub fn user_file() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let folder = absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("APPDATA"))
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("surmise").join("config.toml"))
}

/// Reads a settings file; one that does not exist is an empty layer.
pub fn read_file(path: &Path) -> Result<Layer, Problem> {
    let source = path.display().to_string();
    let unreadable = |reason: String| Problem {
        source: source.clone(),
        key: String::new(),
        kind: ProblemKind::Unreadable { reason },
    };
    let settings = match std::fs::read_to_string(path) {
        Ok(text) => {
            toml::from_str(&text).map_err(|error| unreadable(error.to_string().trim_end().to_owned()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
        Err(error) => return Err(unreadable(error.to_string())),
    };
    Ok(Layer { source, settings })
}

/// Checks a number against the range that the schema gives its key.
fn check_range(key: &str, value: &Value) -> Result<(), String> {
    let schema = Config::schema();
    let Some((property, number)) = property(&schema, key).zip(value.as_f64()) else {
        return Ok(());
    };
    let bound = |name: &str| property.get(name).and_then(Value::as_f64);
    let (least, most) = (bound("minimum"), bound("maximum"));
    if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
        let text = |bound: Option<f64>| bound.map_or("any".to_owned(), |bound| bound.to_string());
        return Err(format!(
            "expected a number from {} to {}, found {number}",
            text(least),
            text(most)
        ));
    }
    Ok(())
}

/// Schema of the property with the dotted `key`, through references.
fn property<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(schema, |at, name| {
        let at = match at.get("$ref").and_then(Value::as_str) {
            Some(reference) => schema.pointer(reference.strip_prefix('#')?)?,
            None => at,
        };
        at.get("properties")?.get(name)
    })
}

fn pointer(key: &str) -> String {
    key.split('.')
        .map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1")))
        .collect()
}

fn collect_keys(value: &Value, group: &str, keys: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| {
            let key = if group.is_empty() {
                name.clone()
            } else {
                format!("{group}.{name}")
            };
            collect_keys(member, &key, keys);
        }),
        _ => keys.push(group.to_owned()),
    }
}

/// Levenshtein distance, in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layer(settings: Value) -> Layer {
        Layer {
            source: "editor settings".to_owned(),
            settings,
        }
    }

    fn problems_of(settings: Value) -> (Config, Vec<String>) {
        let (config, problems) = Config::from_layers(&[layer(settings)]);
        (config, problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn a_later_layer_wins_and_null_means_absent() {
        let (config, problems) = Config::from_layers(&[
            layer(json!({"model": "a.gguf", "completion": {"max_tokens": 8, "enabled": false}})),
            layer(json!({"model": null, "completion": {"max_tokens": 9}, "engine": null})),
            layer(Value::Null),
        ]);
        assert_eq!(problems, []);
        assert_eq!(config.model, "a.gguf");
        assert_eq!(
            (config.completion.max_tokens, config.completion.enabled),
            (9, false)
        );
    }

    #[test]
    fn problems_name_the_key_and_leave_the_default() {
        let (config, problems) = problems_of(json!({
            "modle": "x",
            "completion": {"max_tokens": "many", "extent": "page", "min_confidence": 1.5, "enabled": false},
            "engine": 3,
            "colour": {"theme": 1},
        }));
        expect_test::expect![[r#"
            editor settings: unknown setting `modle`; did you mean `model`?
            editor settings: `completion.max_tokens`: invalid type: string "many", expected usize
            editor settings: `completion.extent`: unknown variant `page`, expected one of `auto`, `line`, `statement`, `block`
            editor settings: `completion.min_confidence`: expected a number from 0 to 1, found 1.5
            editor settings: `engine`: invalid type: integer `3`, expected struct EngineConfig
            editor settings: unknown setting `colour`; `surmise config schema` lists all"#]]
        .assert_eq(&problems.join("\n"));
        let mut expected = Config::default();
        expected.completion.enabled = false;
        assert_eq!(config, expected);
    }

    #[test]
    fn the_schema_describes_every_setting() {
        let schema = Config::schema();
        let mut keys = Vec::new();
        collect_keys(&Config::default().to_json(), "", &mut keys);
        for key in keys {
            let property = property(&schema, &key).unwrap_or_else(|| panic!("{key} is not in the schema"));
            let has_description = property.get("description").is_some();
            assert!(
                has_description && property.get("default").is_some() || key.contains('.'),
                "{key}: {property}"
            );
        }
    }
}
