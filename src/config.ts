import { homedir } from 'node:os';
import { assemble } from './config/assemble.ts';
import type { PortRange } from './config/deployments.ts';
import type { Given, Machine, Setting } from './config/kit.ts';
import { settings, type ParsedValues, type SettingName, type Values } from './config/settings.ts';
import type { Config } from './config/types.ts';
import { passwordMemoryKib } from './kernel/crypto.ts';

export { groups, Secret, type Machine, type Setting } from './config/kit.ts';
export { settings } from './config/settings.ts';
export type { Config } from './config/types.ts';

/** The environment does not make a configuration. `problems` and the message name everything that is wrong. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  /** One line each, `NAME: what is wrong`; never the value of a secret. */
  readonly problems: readonly string[];
  constructor(problems: readonly string[]) {
    super(
      `The configuration has ${problems.length} problem${problems.length === 1 ? '' : 's'}:\n  ${problems.join('\n  ')}`,
    );
    this.problems = problems;
  }
}

const thisMachine = (): Machine => ({
  platform: process.platform,
  uid: process.getuid?.(),
  home: homedir(),
});

/** ` (got "…")` for a value that may be shown: not a secret, and nothing in it that looks like a credential. */
const shown = (one: Setting, text: string): string =>
  !one.secret && /^[\w.,:/ +*-]{1,60}$/.test(text) ? ` (got "${text}")` : '';

const isLoopback = (url: string): boolean => /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/.test(new URL(url).hostname);

const deepFreeze = <T extends object>(value: T): T => {
  for (const member of Object.values(value)) if (typeof member === 'object' && member !== null) deepFreeze(member);
  return Object.freeze(value);
};

/** Optional elsewhere. */
const requiredInProduction: readonly SettingName[] = ['SESSION_SECRET', 'STORAGE_SECRET'];

const isSettingName = (name: string): name is SettingName => Object.hasOwn(settings, name);

/** Whether every setting that is not optional has a value; each came out of its own schema. */
const isComplete = (values: ParsedValues): values is ParsedValues & Values =>
  Object.entries(settings).every(([name, one]) => one.optional || Object.hasOwn(values, name));

/**
 * Reads the configuration. An empty variable counts as unset; an unknown one that starts with SWITCHYARD_ is an error.
 *
 * @param env the environment, usually `process.env`
 * @param machine what defaults depend on besides it; for tests
 * @throws ConfigError naming everything that is wrong, not just the first thing
 */
export function loadConfig(env: NodeJS.ProcessEnv, machine: Machine = thisMachine()): Config {
  const given = new Map(Object.entries(env).filter((entry): entry is [string, string] => Boolean(entry[1])));
  const problems: string[] = [];
  const problem = (name: SettingName, what: string) => problems.push(`${name}: ${what}`);

  for (const name of given.keys()) {
    if (name.startsWith('SWITCHYARD_') && !isSettingName(name)) {
      problems.push(`${name}: there is no such setting${closest(name)}`);
    }
  }

  const mode = settings.NODE_ENV.schema.safeParse(given.get('NODE_ENV') ?? 'development').data;
  // With an unknown mode only what is wrong in every mode is listed.
  const context: Given = { mode: mode ?? 'development', env: given, machine };
  const values: ParsedValues = {};
  for (const [name, one] of Object.entries(settings)) {
    if (!isSettingName(name)) continue;
    const text = given.get(name) ?? (typeof one.default === 'string' ? one.default : one.default?.of(context));
    if (text === undefined) {
      const needed = !one.optional || (mode === 'production' && requiredInProduction.includes(name));
      if (needed) problem(name, mode === 'production' ? 'must be set in production' : 'must be set');
      continue;
    }
    const result = one.schema.safeParse(text);
    if (result.success) values[name] = result.data;
    // A derived default is wrong only because of what it is derived from, which has its own line.
    else if (given.has(name)) {
      problem(name, result.error.issues.map((issue) => issue.message).join('; ') + shown(one, text));
    }
  }

  const publicUrl = values.PUBLIC_URL;
  const plain = typeof publicUrl === 'string' && !publicUrl.startsWith('https:') && !isLoopback(publicUrl);
  if (mode === 'production' && plain) {
    problem('PUBLIC_URL', 'must start with https:// in production, unless it is on loopback');
  }
  const hashKib = values.SWITCHYARD_PASSWORD_MEMORY_KIB;
  if (mode === 'production' && typeof hashKib === 'number' && hashKib < passwordMemoryKib) {
    problem('SWITCHYARD_PASSWORD_MEMORY_KIB', `must be at least ${passwordMemoryKib} in production`);
  }
  if (given.has('DATABASE_DIRECT_URL') && !given.has('DATABASE_URL')) {
    problem('DATABASE_DIRECT_URL', 'needs DATABASE_URL');
  }
  if (values.SWITCHYARD_PERSISTED_ONLY === true && !given.has('SWITCHYARD_PERSISTED_FILE')) {
    problem('SWITCHYARD_PERSISTED_ONLY', 'needs SWITCHYARD_PERSISTED_FILE, or no document could be executed');
  }
  if (values.SWITCHYARD_RATES === 'redis' && !given.has('REDIS_URL'))
    problem('REDIS_URL', 'must be set for SWITCHYARD_RATES=redis');
  const keySources = ['SWITCHYARD_ENCRYPTION_KEYS', 'SWITCHYARD_ENCRYPTION_KEYS_FILE'].filter((name) =>
    given.has(name),
  );
  if (keySources.length > 1) {
    problem('SWITCHYARD_ENCRYPTION_KEYS', 'must not be set together with SWITCHYARD_ENCRYPTION_KEYS_FILE');
  }
  if (mode === 'production' && keySources.length === 0 && !given.has('SWITCHYARD_ENCRYPTION_KMS_KEYS')) {
    problem(
      'SWITCHYARD_ENCRYPTION_KEYS',
      'or SWITCHYARD_ENCRYPTION_KEYS_FILE or SWITCHYARD_ENCRYPTION_KMS_KEYS must be set in production',
    );
  }
  for (const [name, other] of [
    ['GITHUB_CLIENT_ID', 'GITHUB_CLIENT_SECRET'],
    ['GITHUB_CLIENT_SECRET', 'GITHUB_CLIENT_ID'],
    ['GITHUB_APP_ID', 'GITHUB_APP_PRIVATE_KEY'],
    ['GITHUB_APP_PRIVATE_KEY', 'GITHUB_APP_ID'],
    ['SWITCHYARD_S3_ACCESS_KEY_ID', 'SWITCHYARD_S3_SECRET_ACCESS_KEY'],
    ['SWITCHYARD_S3_SECRET_ACCESS_KEY', 'SWITCHYARD_S3_ACCESS_KEY_ID'],
  ] as const) {
    if (given.has(name) && !given.has(other)) problem(other, `must be set with ${name}`);
  }
  const ofModel = ['SWITCHYARD_LLM_URL', 'SWITCHYARD_LLM_KEY', 'SWITCHYARD_LLM_MODEL'] as const;
  const has = ofModel.find((name) => given.has(name));
  for (const name of ofModel) if (has && !given.has(name)) problem(name, `must be set with ${has}`);
  const ec2 = ['SWITCHYARD_EC2_INSTANCE_ID', 'SWITCHYARD_EC2_REGION', 'SWITCHYARD_EC2_BUCKET'] as const;
  const ofEc2 = [...given.keys()].find((name) => name.startsWith('SWITCHYARD_EC2_') && isSettingName(name));
  for (const name of ec2) if (ofEc2 && !given.has(name)) problem(name, `must be set with ${ofEc2}`);
  if (given.has('SWITCHYARD_KMS_ENDPOINT') && !given.has('SWITCHYARD_ENCRYPTION_KMS_KEYS')) {
    problem('SWITCHYARD_KMS_ENDPOINT', 'needs SWITCHYARD_ENCRYPTION_KMS_KEYS');
  }
  const s3Settings = [...given.keys()].filter((name) => name.startsWith('SWITCHYARD_S3_') && name in settings);
  if (values.SWITCHYARD_BLOBS === 's3' && !given.has('SWITCHYARD_S3_BUCKET'))
    problem('SWITCHYARD_S3_BUCKET', 'must be set for SWITCHYARD_BLOBS=s3');
  if (values.SWITCHYARD_BLOBS === 'disk' && s3Settings.length > 0)
    problem('SWITCHYARD_BLOBS', `must be s3 for ${s3Settings.toSorted().join(', ')}`);
  if (given.has('SWITCHYARD_EXTRACTOR_KEY') && !given.has('SWITCHYARD_EXTRACTOR_URL'))
    problem('SWITCHYARD_EXTRACTOR_URL', 'must be set with SWITCHYARD_EXTRACTOR_KEY');
  if (given.has('SMTP_URL') && !given.has('MAIL_FROM')) problem('MAIL_FROM', 'must be set with SMTP_URL');
  if (isComplete(values)) for (const [name, text] of portProblems(values)) problem(name, text);
  if (problems.length > 0 || !isComplete(values)) throw new ConfigError(problems);
  return deepFreeze(assemble(values, given));
}

/** Ports of applications that something else of this server needs. */
function* portProblems(v: Values): Generator<[name: SettingName, text: string]> {
  if (!v.SWITCHYARD_PROCESS_DRIVER) return; // nothing uses them
  const [addresses, instances] = [v.SWITCHYARD_ADDRESS_PORTS, v.SWITCHYARD_INSTANCE_PORTS];
  const has = ({ from, to }: PortRange, port: number): boolean => port >= from && port <= to;
  if (addresses.from <= instances.to && instances.from <= addresses.to)
    yield ['SWITCHYARD_INSTANCE_PORTS', 'must not overlap with SWITCHYARD_ADDRESS_PORTS'];
  for (const name of ['SWITCHYARD_ADDRESS_PORTS', 'SWITCHYARD_INSTANCE_PORTS'] as const)
    if (has(v[name], v.PORT)) yield [name, `must not contain ${v.PORT}, which is PORT`];
}

/** `; did you mean …?` for a name one or two edits away from a known one, else an empty text. */
function closest(name: string): string {
  const near = Object.keys(settings)
    .map((known) => ({ known, distance: editDistance(name, known) }))
    .toSorted((a, b) => a.distance - b.distance)[0];
  return near && near.distance <= 2 ? `; did you mean ${near.known}?` : '';
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
