// Writes the server's settings into package.json, from the schema that the server prints:
//
//     surmise config schema | npm run --silent settings           writes package.json
//     surmise config schema | npm run --silent settings -- --check  fails if package.json would change

import fs from 'node:fs';

const manifest = new URL('../package.json', import.meta.url);

/** Settings of the extension itself, which the server does not know. */
const OWN = {
  'surmise.path': {
    type: 'string',
    default: '',
    scope: 'machine-overridable',
    order: 0,
    markdownDescription:
      'The `surmise` program. Empty: the one packaged with this extension, else the first on the `PATH`.',
  },
  'surmise.trace.server': {
    type: 'string',
    enum: ['messages', 'verbose'],
    default: 'messages',
    scope: 'window',
    order: 1000,
    description:
      'What the log shows of the messages between the editor and the server once its level is Trace (Developer: Set Log Level…).',
  },
};

/** The settings of one group of the schema, each with its dotted name. */
function properties(root, group, prefix, defaults) {
  return Object.entries(group.properties ?? {}).flatMap(([name, property]) => {
    const key = `${prefix}.${name}`;
    const value = defaults?.[name] ?? property.default;
    const { description, ...resolved } = { ...resolve(root, property), ...property };
    if (resolved.properties) {
      return properties(root, resolved, key, value);
    }
    return [[key, setting(resolved, value, description)]];
  });
}

function resolve(root, property) {
  const reference = property.$ref ?? property.allOf?.[0]?.$ref;
  return reference ? reference.slice(2).split('/').reduce((at, name) => at[name], root) : {};
}

function setting(property, value, description) {
  const choices = property.oneOf?.filter(choice => choice.const !== undefined);
  const kept = ['type', 'items', 'minimum', 'maximum', 'enum'].filter(key => property[key] !== undefined);
  return {
    ...Object.fromEntries(kept.map(key => [key, property[key]])),
    ...(choices?.length && {
      type: 'string',
      enum: choices.map(choice => choice.const),
      markdownEnumDescriptions: choices.map(choice => oneLine(choice.description ?? '')),
    }),
    default: value,
    markdownDescription: oneLine(description ?? ''),
  };
}

function oneLine(text) {
  return text.replace(/\s*\n\s*/g, ' ');
}

const schema = JSON.parse(fs.readFileSync(0, 'utf8'));
const before = fs.readFileSync(manifest, 'utf8');
const contents = JSON.parse(before);
const fromServer = properties(schema, schema, 'surmise', schema.default).map(([key, value], i) => [key, { ...value, order: i + 1 }]);
contents.contributes.configuration.properties = { 'surmise.path': OWN['surmise.path'], ...Object.fromEntries(fromServer), 'surmise.trace.server': OWN['surmise.trace.server'] };
const after = JSON.stringify(contents, null, 2) + '\n';

if (process.argv.includes('--check')) {
  if (JSON.stringify(JSON.parse(before)) !== JSON.stringify(contents)) {
    console.error('package.json does not have the settings of `surmise config schema`: run `surmise config schema | npm run settings`');
    process.exit(1);
  }
} else {
  fs.writeFileSync(manifest, after);
}
