import { createPrivateKey } from 'node:crypto';
import { isIPv6 } from 'node:net';
import { homedir } from 'node:os';
import path from 'node:path';
import { inspect } from 'node:util';
import { z } from 'zod';
import { passwordMemoryKib } from './kernel/crypto.ts';
import { parseKeys, parseKmsKeys, type KmsKey } from './kernel/sealing/keys.ts';

/**
 * A value that must not be printed. JSON.stringify, String() and util.inspect show `[redacted]`; only `reveal()` gives
 * the text.
 */
export class Secret {
  readonly #value: string;
  constructor(value: string) {
    this.#value = value;
  }
  /** The text itself. Call it where it is used, never to pass it on. */
  reveal(): string {
    return this.#value;
  }
  toString(): string {
    return '[redacted]';
  }
  toJSON(): string {
    return '[redacted]';
  }
  [inspect.custom](): string {
    return '[redacted]';
  }
}

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

export type Mode = 'development' | 'test' | 'production';

/** What a default may depend on besides the environment. */
export interface Machine {
  readonly platform: NodeJS.Platform;
  /** User id of the process; undefined where there is none (Windows). */
  readonly uid: number | undefined;
  /** Home folder, where HOME is not set. */
  readonly home: string;
}

/** The non-empty variables of the environment, the mode, and the machine. */
interface Given {
  readonly mode: Mode;
  readonly env: ReadonlyMap<string, string>;
  readonly machine: Machine;
}

/** A default that depends on something: `words` for the reference, `of` for the program (undefined: none). */
interface DerivedDefault {
  readonly words: string;
  readonly of: (given: Given) => string | undefined;
}

export const groups = [
  'General',
  'HTTP',
  'Sessions',
  'Sign-in',
  'Encryption',
  'Database',
  'Mail',
  'Files',
  'GraphQL',
  'Worker',
  'Deployments',
  'Documents',
  'Outbound',
  'Telemetry',
] as const;

/** One environment variable, for the parser and for docs/configuration.md. */
export interface Setting<T = unknown> {
  readonly group: (typeof groups)[number];
  readonly description: string;
  /** Unit of the value, where it has one. */
  readonly unit?: string;
  /** A text that goes through the same parser as a given value. */
  readonly default?: string | DerivedDefault;
  /** Never shown in an error; wrapped in {@link Secret} unless the schema says otherwise. */
  readonly secret?: true;
  /** Whether the program can do without a value. */
  readonly optional?: true;
  readonly example: string;
  readonly schema: z.ZodType<T, string>;
}

const setting = <T>(one: Setting<T> & { readonly default: string | DerivedDefault }): Setting<T> => one;
const optional = <T>(one: Omit<Setting<T>, 'optional'>): Setting<T | undefined> => ({ ...one, optional: true });

const outsideProduction: DerivedDefault = {
  words: 'true outside production, false in production',
  of: ({ mode }) => String(mode !== 'production'),
};

/** A whole number in decimal notation, without sign, spaces or exponent. */
const whole = (min: number, max: number = Number.MAX_SAFE_INTEGER) =>
  z.string().transform((text, context) => {
    const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    context.addIssue(
      max === Number.MAX_SAFE_INTEGER
        ? `must be a whole number, at least ${min}`
        : `must be a whole number from ${min} to ${max}`,
    );
    return z.NEVER;
  });

const flag = z.string().transform((text, context) => {
  if (text === 'true' || text === '1') return true;
  if (text === 'false' || text === '0') return false;
  context.addIssue('must be true or false');
  return z.NEVER;
});

/** Path of the socket of `unix://…`. */
const dockerSocket = z.string().transform((text, context) => {
  const [, socket = ''] = /^unix:\/\/(\/[^\0]+)$/.exec(text) ?? [];
  if (socket !== '') return socket;
  context.addIssue('must be unix:// and an absolute path: only an engine of this machine is used');
  return z.NEVER;
});

const split = (text: string): string[] => text.split(',').map((part) => part.trim());

const variableNames = z
  .string()
  .transform((text) => text.split(',').map((name) => name.trim()))
  .refine(
    (names) => names.every((name) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name)),
    'must be names of variables, comma-separated',
  );

/** One secret, or two while they are rotated. */
const webhookSecrets = z.string().transform((text, context): readonly Secret[] => {
  const secrets = split(text);
  if (secrets.length <= 2 && secrets.every((one) => Buffer.byteLength(one) >= 16))
    return secrets.map((one) => new Secret(one));
  context.addIssue('must be one secret, or two, comma-separated, of at least 16 bytes each');
  return z.NEVER;
});

const rsaKey = z.string().transform((text, context): Secret => {
  const pem = text.replaceAll('\\n', '\n');
  try {
    if (createPrivateKey(pem).asymmetricKeyType === 'rsa') return new Secret(pem);
  } catch {
    // Told below: nothing of the text is in the message.
  }
  context.addIssue('must be a private RSA key in PEM');
  return z.NEVER;
});

const encryptionKeys = z.string().transform((text, context) => {
  const keys = parseKeys(text);
  if (typeof keys !== 'string') return new Secret(text);
  context.addIssue(keys);
  return z.NEVER;
});

const kmsKeys = z.string().transform((text, context) => {
  const keys = parseKmsKeys(text);
  if (typeof keys !== 'string') return keys;
  context.addIssue(keys);
  return z.NEVER;
});

const smtpUrl = z.string().transform((text, context) => {
  const url = parseUrl(text);
  const whole = url && /^smtps?:$/.test(url.protocol) && url.hostname !== '';
  // An unknown parameter would be a wish that nobody fulfils.
  if (whole && /^\/?$/.test(url.pathname) && !url.search && !url.hash && isDecodable(url)) return new Secret(text);
  context.addIssue('must be smtp:// or smtps:// with a host, and at most user name, password and port besides');
  return z.NEVER;
});

/** `name@example.com`, or `Name <name@example.com>` with a name without special characters. */
const mailSender = z.string().transform((text, context): MailSender => {
  const [, name = '', bracketed] = /^([\p{L}\p{N} ._'-]{1,80}?) *<([^<>]+)>$/u.exec(text) ?? [];
  const address = z
    .email()
    .max(320)
    .safeParse(bracketed ?? text);
  if (address.success) return { name: name.trim(), address: address.data };
  context.addIssue('must be an e-mail address, or a name and an address in <>');
  return z.NEVER;
});

/** From whom mail comes. */
export interface MailSender {
  /** May be empty. */
  readonly name: string;
  readonly address: string;
}

const emailAddresses = z
  .string()
  .transform((text) => split(text).map((address) => address.toLowerCase()))
  .refine(
    (addresses) => addresses.every((address) => z.email().safeParse(address).success),
    'must be e-mail addresses, comma-separated',
  );

const listOf = <const T extends string>(allowed: readonly T[]) =>
  z.string().transform((text, context): readonly T[] => {
    const parts = split(text);
    const known = allowed.filter((one) => parts.includes(one));
    if (known.length === new Set(parts).size) return known;
    context.addIssue(`must be a comma-separated list of: ${allowed.join(', ')}`);
    return z.NEVER;
  });

const oneOf = <const T extends readonly [string, ...string[]]>(values: T) =>
  z.enum(values, { error: `must be one of: ${values.join(', ')}` });

const parseUrl = (text: string): URL | undefined => (URL.canParse(text) ? new URL(text) : undefined);

/** Whether user name and password can be percent-decoded. */
function isDecodable(url: URL): boolean {
  try {
    decodeURIComponent(url.username + url.password);
    return true;
  } catch (error) {
    if (error instanceof URIError) return false;
    throw error;
  }
}

const secretText = (minBytes: number) =>
  z
    .string()
    .refine((text) => Buffer.byteLength(text) >= minBytes, `must have at least ${minBytes} bytes`)
    .transform((text) => new Secret(text));

const connectionUrl = (...protocols: readonly string[]) =>
  z
    .string()
    .refine(
      (text) => protocols.includes(parseUrl(text)?.protocol ?? ''),
      `must be a URL that starts with ${protocols.map((protocol) => `${protocol}//`).join(' or ')}`,
    )
    .transform((text) => new Secret(text));

/** An http(s) URL without credentials, query or fragment; comes back without a trailing slash. */
const webUrl = z.string().transform((text, context) => {
  const url = parseUrl(text);
  if (url && /^https?:$/.test(url.protocol) && !url.username && !url.password && !url.search && !url.hash) {
    return url.href.replace(/\/+$/, '');
  }
  context.addIssue('must be an http:// or https:// URL without user name, password, query or fragment');
  return z.NEVER;
});

/** @see https://www.rfc-editor.org/rfc/rfc7519#section-4.1.1 */
const Issuer = z.strictObject({
  issuer: z.string().min(1).max(290),
  jwksUrl: webUrl.optional(),
  clientIds: z.array(z.string().min(1)).min(1, 'must have one at least'),
  use: z
    .array(z.enum(['id', 'access']))
    .min(1)
    .default(['id', 'access']),
  provision: z.boolean().default(false),
});

const jwtIssuers = z.string().transform((text, context): readonly JwtIssuer[] => {
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch {
    context.addIssue('must be JSON: a list of {"issuer", "jwksUrl", "clientIds", "use", "provision"}');
    return z.NEVER;
  }
  const read = z.array(Issuer).safeParse(given);
  if (!read.success) {
    const [issue] = read.error.issues;
    context.addIssue(`${issue?.path.join('.') || 'the list'}: ${issue?.message ?? 'is wrong'}`);
    return z.NEVER;
  }
  const issuers = read.data.map((one) => ({
    ...one,
    jwksUrl: one.jwksUrl ?? `${one.issuer.replace(/\/$/, '')}/.well-known/jwks.json`,
  }));
  if (!issuers.every(({ jwksUrl }) => /^https?:$/.test(parseUrl(jwksUrl)?.protocol ?? ''))) {
    context.addIssue('an issuer that is no URL needs a jwksUrl');
  } else if (new Set(issuers.map(({ issuer }) => issuer)).size < issuers.length) {
    context.addIssue('an issuer stands there twice');
  } else return issuers;
  return z.NEVER;
});

/** An issuer whose JWTs are taken. */
export interface JwtIssuer {
  /** Claim `iss`. */
  readonly issuer: string;
  readonly jwksUrl: string;
  readonly clientIds: readonly string[];
  readonly use: readonly ('id' | 'access')[];
  /** Whether people without an account get one. */
  readonly provision: boolean;
}

const origins = z.string().transform((text, context): readonly string[] => {
  const parts = split(text);
  for (const part of parts) {
    const url = parseUrl(part);
    if (url?.origin !== part || !/^https?:$/.test(url.protocol)) {
      context.addIssue(
        'must be a comma-separated list of exact origins, such as https://app.example.com (no path, no *)',
      );
      return z.NEVER;
    }
  }
  return [...new Set(parts)];
});

const hostName = z
  .string()
  .refine(
    (text) => isIPv6(text) || /^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$/.test(text),
    'must be a host name or an IP address',
  );

const folder = z.string().transform((text) => path.resolve(text));

const portRange = z.string().transform((text, context): PortRange => {
  const [, from, to] = /^(\d{1,5})-(\d{1,5})$/.exec(text)?.map(Number) ?? [];
  if (from !== undefined && to !== undefined && from >= 1024 && to <= 65_535 && from <= to) return { from, to };
  context.addIssue('must be two ports from 1024 to 65535, such as 20000-29999');
  return z.NEVER;
});

/** Both ends belong to it. */
export interface PortRange {
  readonly from: number;
  readonly to: number;
}

const roleNames = ['api', 'worker'] as const;
const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
const gitProtocols = ['https', 'http', 'ssh', 'file'] as const;
export type LogLevel = (typeof logLevels)[number];
export type GitProtocol = (typeof gitProtocols)[number];

/** Every environment variable that the program reads, by name. */
export const settings = {
  NODE_ENV: setting({
    group: 'General',
    description: 'Strictness and defaults: development, test or production.',
    default: 'development',
    example: 'production',
    schema: oneOf(['development', 'test', 'production']),
  }),
  SWITCHYARD_ROLES: setting({
    group: 'General',
    description: 'What this process does, comma-separated: api answers HTTP and WebSocket, worker executes runs.',
    default: 'api,worker',
    example: 'worker',
    schema: listOf(roleNames),
  }),
  SWITCHYARD_STATE_DIR: setting({
    group: 'General',
    description:
      'Folder of this host’s own state, for the server’s user only: host id, generated secrets, embedded database, files. Created if it is not there.',
    default: {
      words:
        '$XDG_STATE_HOME/switchyard; else, as root, /var/lib/switchyard; on macOS ~/Library/Application Support/switchyard; else ~/.local/state/switchyard',
      of: ({ env, machine }) => {
        const stateHome = env.get('XDG_STATE_HOME');
        // The XDG specification has relative paths ignored.
        if (stateHome && path.isAbsolute(stateHome)) return path.join(stateHome, 'switchyard');
        if (machine.uid === 0) return '/var/lib/switchyard';
        const home = env.get('HOME') ?? machine.home;
        return machine.platform === 'darwin'
          ? path.join(home, 'Library', 'Application Support', 'switchyard')
          : path.join(home, '.local', 'state', 'switchyard');
      },
    },
    example: '/srv/switchyard',
    schema: folder,
  }),
  SWITCHYARD_SHARED_DIR: optional({
    group: 'General',
    description:
      'Folder for what other users of this host must reach: as root, the database server and deployed applications run as somebody else. Must then be root’s own.',
    default: { words: 'in or beside the state folder', of: () => undefined },
    example: '/srv/switchyard.shared',
    schema: folder,
  }),
  LOG_LEVEL: setting({
    group: 'General',
    description: `Least level that is logged: ${logLevels.join(', ')}.`,
    default: 'info',
    example: 'debug',
    schema: oneOf(logLevels),
  }),

  PORT: setting({
    group: 'HTTP',
    description: 'TCP port to listen on; 0 lets the system choose one.',
    default: '4000',
    example: '8080',
    schema: whole(0, 65_535),
  }),
  HOST: setting({
    group: 'HTTP',
    description: 'Address or host name to listen on.',
    default: '127.0.0.1',
    example: '0.0.0.0',
    schema: hostName,
  }),
  PUBLIC_URL: optional({
    group: 'HTTP',
    description:
      'URL at which clients reach this server, for links and signed URLs. Production needs https, except on loopback.',
    default: {
      words: 'http://HOST:PORT; with PORT 0 it is known once the server listens',
      of: ({ env }) => {
        const port = env.get('PORT') ?? '4000';
        const host = env.get('HOST') ?? '127.0.0.1';
        // The unspecified address is for listening only: nobody can reach it.
        const reachable = { '0.0.0.0': '127.0.0.1', '::': '::1' }[host] ?? host;
        return /^0+$/.test(port)
          ? undefined
          : `http://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`;
      },
    },
    example: 'https://switchyard.example.com',
    schema: webUrl,
  }),
  APP_URL: optional({
    group: 'HTTP',
    description:
      'URL of the application that people use: links in mails begin with it, /verify-email and /reset-password for instance.',
    default: { words: 'PUBLIC_URL', of: () => undefined },
    example: 'https://app.example.com',
    schema: webUrl,
  }),
  CORS_ORIGINS: optional({
    group: 'HTTP',
    description:
      'Exact origins, comma-separated, whose pages may call this server with credentials. Unset: only its own origin.',
    example: 'https://app.example.com,https://admin.example.com',
    schema: origins,
  }),
  TRUST_PROXY: setting({
    group: 'HTTP',
    description: 'How many proxies stand in front: so many entries at the end of X-Forwarded-For are believed.',
    unit: 'proxies',
    default: '0',
    example: '1',
    schema: whole(0, 20),
  }),
  SWITCHYARD_MAX_BODY_BYTES: setting({
    group: 'HTTP',
    description: 'Largest request body, file uploads aside; also the largest WebSocket message.',
    unit: 'bytes',
    default: '1048576',
    example: '2097152',
    schema: whole(1024, 1_073_741_824),
  }),

  SESSION_SECRET: optional({
    group: 'Sessions',
    description:
      'Key that signs session tokens, at least 32 bytes, the same in every process. Required in production; elsewhere one is generated into the state folder.',
    secret: true,
    example: 'output of: openssl rand -base64 48',
    schema: secretText(32),
  }),
  SESSION_TTL_S: setting({
    group: 'Sessions',
    description: 'How long a session lasts after signing in.',
    unit: 's',
    default: '43200',
    example: '3600',
    schema: whole(60, 2_592_000),
  }),
  SESSION_MAX_AGE_S: setting({
    group: 'Sessions',
    description: 'How long after signing in somebody must sign in again, however often their session was renewed.',
    unit: 's',
    default: '2592000',
    example: '604800',
    schema: whole(60, 31_536_000),
  }),
  SWITCHYARD_SIGN_UPS_PER_HOUR: setting({
    group: 'Sessions',
    description: 'Most accounts that are made from one network (an IPv4 address, or an IPv6 /64) within an hour.',
    unit: 'accounts',
    default: '20',
    example: '200',
    schema: whole(1, 1_000_000),
  }),
  SWITCHYARD_PASSWORD_MEMORY_KIB: setting({
    group: 'Sessions',
    description:
      'Memory that the hash of a password takes, which is what makes guessing dear. Production refuses less than the default. A password is hashed anew at the next sign-in.',
    unit: 'KiB',
    default: String(passwordMemoryKib),
    example: '47104',
    schema: whole(8, 1_048_576),
  }),
  SWITCHYARD_BREACHED_PASSWORDS_URL: optional({
    group: 'Sessions',
    description:
      'Base URL of a Pwned Passwords range API that new passwords are compared with; it gets the first five hexadecimal digits of a SHA-1. Unset: nobody is asked. While it does not answer, passwords pass, with a warning in the log.',
    example: 'https://api.pwnedpasswords.com',
    schema: webUrl,
  }),
  SWITCHYARD_OPERATORS: optional({
    group: 'Sessions',
    description:
      'E-mail addresses, comma-separated, of the people who operate this server: once verified, they see the instance’s log and may use its verbs.',
    example: 'ops@example.com',
    schema: emailAddresses,
  }),

  GITHUB_CLIENT_ID: optional({
    group: 'Sign-in',
    description:
      'Client id of an OAuth app at GitHub, whose callback URL is PUBLIC_URL/auth/github/callback. Unset: nobody signs in with GitHub.',
    example: 'Ov23liAbCdEfGhIjKlMn',
    schema: z.string().max(200),
  }),
  GITHUB_CLIENT_SECRET: optional({
    group: 'Sign-in',
    description: 'Client secret of that OAuth app.',
    secret: true,
    example: 'as GitHub shows it',
    schema: secretText(8),
  }),
  GITHUB_URL: setting({
    group: 'Sign-in',
    description: 'Where GitHub is; another address for GitHub Enterprise Server, which may be in a private network.',
    default: 'https://github.com',
    example: 'https://github.example.com',
    schema: webUrl,
  }),
  GITHUB_API_URL: setting({
    group: 'Sign-in',
    description: 'Where the REST API of that GitHub is.',
    default: 'https://api.github.com',
    example: 'https://github.example.com/api/v3',
    schema: webUrl,
  }),
  GITHUB_APP_ID: optional({
    group: 'Deployments',
    description:
      'Id of a GitHub App, through whose installations repositories are reached. Unset: by tokens of people and repositories only.',
    example: '123456',
    schema: z.string().regex(/^[A-Za-z0-9.]{1,60}$/, 'must be an id, or a client id, of a GitHub App'),
  }),
  GITHUB_APP_PRIVATE_KEY: optional({
    group: 'Deployments',
    description: 'Private key of that App: PEM, with line ends or `\\n` in their place.',
    secret: true,
    example: 'as GitHub gives it',
    schema: rsaKey,
  }),
  SWITCHYARD_LLM_URL: optional({
    group: 'Deployments',
    description:
      'Base URL of an API like that of OpenAI (chat completions) whose language model gives advice on deployments, and extracts tables of documents, of workspaces that allow it. Unset: advice comes from rules only, and nothing leaves the server.',
    example: 'https://api.example.com/v1',
    schema: webUrl,
  }),
  SWITCHYARD_LLM_KEY: optional({
    group: 'Deployments',
    description: 'Key for that API.',
    secret: true,
    example: 'the-key-that-its-operator-gives',
    schema: z
      .string()
      .regex(/^[\x21-\x7E]{1,1000}$/, 'must be printable ASCII without spaces')
      .transform((text) => new Secret(text)),
  }),
  SWITCHYARD_LLM_MODEL: optional({
    group: 'Deployments',
    description: 'Name of the model there.',
    example: 'some-model-1',
    schema: z.string().regex(/^[\x21-\x7E]{1,200}$/, 'must be printable ASCII without spaces, 200 characters at most'),
  }),
  SWITCHYARD_LLM_DAILY: setting({
    group: 'Deployments',
    description:
      'Most deployments of one workspace within 24 hours that the language model is asked about, and most extractions that it does.',
    unit: 'deployments',
    default: '100',
    example: '20',
    schema: whole(1, 100_000),
  }),
  GITHUB_WEBHOOK_SECRETS: optional({
    group: 'Deployments',
    description:
      "Secret of that App's webhook, at PUBLIC_URL/webhooks/github; while it is rotated, the new one and the one before, comma-separated. Unset: that address answers 401.",
    secret: true,
    example: 'output of: openssl rand -hex 32',
    schema: webhookSecrets,
  }),
  SWITCHYARD_WEBHOOK_RETENTION_DAYS: setting({
    group: 'Deployments',
    description:
      'How long the bodies of deliveries of GitHub are kept, so that they can be processed again. They have names and addresses of people.',
    unit: 'days',
    default: '30',
    example: '7',
    schema: whole(1, 3650),
  }),
  SWITCHYARD_JWT_ISSUERS: optional({
    group: 'Sign-in',
    description:
      'Issuers whose JWTs are taken as bearer tokens: a JSON list of objects with issuer (claim iss, exactly), jwksUrl (default: issuer/.well-known/jwks.json), clientIds (allowed audiences), use (id, access; default both), provision (whether an ID token makes an account; default false).',
    example:
      '[{"issuer":"https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab12","clientIds":["4ab"],"provision":true}]',
    schema: jwtIssuers,
  }),

  SWITCHYARD_ENCRYPTION_KEYS: optional({
    group: 'Encryption',
    description:
      'Keys that secrets in the database are encrypted with, the current one first: an id, a colon, 32 bytes in base64; comma-separated; the same in every process. Production needs this or SWITCHYARD_ENCRYPTION_KEYS_FILE; elsewhere one is generated into the state folder.',
    secret: true,
    example: 'output of: echo k1:$(openssl rand -base64 32)',
    schema: encryptionKeys,
  }),
  SWITCHYARD_ENCRYPTION_KEYS_FILE: optional({
    group: 'Encryption',
    description:
      'File that holds what SWITCHYARD_ENCRYPTION_KEYS would, as secrets managers mount it; a key may have a line of its own. Read at the start.',
    example: '/run/secrets/switchyard-encryption-keys',
    schema: folder,
  }),
  SWITCHYARD_ENCRYPTION_KMS_KEYS: optional({
    group: 'Encryption',
    description:
      'Keys in AWS KMS, the current one first: an id, =, the ARN of a symmetric key; comma-separated; the same in every process. Needs kms:GenerateDataKey and kms:Decrypt, and credentials where the AWS SDK looks for them. New values are sealed by the first one; keys of SWITCHYARD_ENCRYPTION_KEYS then only open older ones.',
    example: 'kms1=arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab',
    schema: kmsKeys,
  }),
  SWITCHYARD_KMS_ENDPOINT: optional({
    group: 'Encryption',
    description: 'Address of AWS KMS, for instance a VPC endpoint. Unset: that of the region of the key.',
    example: 'https://vpce-0123-abcd.kms.eu-central-1.vpce.amazonaws.com',
    schema: webUrl,
  }),

  DATABASE_URL: optional({
    group: 'Database',
    description:
      'PostgreSQL server; may go through a pooler in transaction mode. Unset: a PostgreSQL server is started in the state folder.',
    secret: true,
    example: 'postgresql://switchyard:password@db.example.com:5432/switchyard',
    schema: connectionUrl('postgresql:', 'postgres:'),
  }),
  DATABASE_DIRECT_URL: optional({
    group: 'Database',
    description: 'The same database without a pooler, for LISTEN and migrations.',
    default: { words: 'DATABASE_URL', of: ({ env }) => env.get('DATABASE_URL') },
    secret: true,
    example: 'postgresql://switchyard:password@db.example.com:5432/switchyard',
    schema: connectionUrl('postgresql:', 'postgres:'),
  }),
  DATABASE_POOL_MAX: setting({
    group: 'Database',
    description: 'Most connections of one process to the database, LISTEN and jobs aside.',
    unit: 'connections',
    default: '10',
    example: '20',
    schema: whole(2, 1000),
  }),
  REDIS_URL: optional({
    group: 'Database',
    description:
      'Redis that carries wake-ups between processes, and counts for rate limits. Unset: PostgreSQL carries them, and SWITCHYARD_RATES says who counts. Nothing that must last goes there.',
    secret: true,
    example: 'rediss://:password@redis.example.com:6380/0',
    schema: connectionUrl('redis:', 'rediss:'),
  }),

  SMTP_URL: optional({
    group: 'Mail',
    description:
      'Mail server: smtp:// uses STARTTLS, and needs it unless the server is on loopback; smtps:// is TLS from the start. Unset: outside production mail is kept for /dev/mail, in production what needs mail is refused.',
    secret: true,
    example: 'smtps://user:password@smtp.example.com:465',
    schema: smtpUrl,
  }),
  MAIL_FROM: optional({
    group: 'Mail',
    description: 'From whom mail comes: an address, or a name and an address. Needed with SMTP_URL.',
    example: 'Switchyard <no-reply@example.com>',
    schema: mailSender,
  }),

  STORAGE_SECRET: optional({
    group: 'Files',
    description:
      'Key that signs upload and download URLs, at least 32 bytes, the same in every process. Required in production; elsewhere one is generated into the state folder.',
    secret: true,
    example: 'output of: openssl rand -base64 48',
    schema: secretText(32),
  }),
  SWITCHYARD_MAX_UPLOAD_BYTES: setting({
    group: 'Files',
    description: 'Largest file that can be uploaded.',
    unit: 'bytes',
    default: '1073741824',
    example: '104857600',
    schema: whole(1),
  }),
  SWITCHYARD_MAX_OPEN_UPLOADS: setting({
    group: 'Files',
    description: 'Uploads that a workspace may have announced without having sent them. They end after a day.',
    default: '1000',
    example: '100',
    schema: whole(1),
  }),
  SWITCHYARD_MAX_PENDING_BYTES: setting({
    group: 'Files',
    description: 'Bytes that they may have in all.',
    unit: 'bytes',
    default: '107374182400',
    example: '10737418240',
    schema: whole(1),
  }),
  SWITCHYARD_BLOBS: setting({
    group: 'Files',
    description: 'Where files are: disk, which is the state folder of this host; or s3, a bucket for all hosts.',
    default: 'disk',
    example: 's3',
    schema: oneOf(['disk', 's3']),
  }),
  SWITCHYARD_S3_BUCKET: optional({
    group: 'Files',
    description: 'Bucket for files. It must be there.',
    example: 'switchyard-files',
    schema: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$/, 'must be the name of a bucket'),
  }),
  SWITCHYARD_S3_PREFIX: optional({
    group: 'Files',
    description:
      'Before the names of all objects, where the bucket is for others, too. Of one server, or of those with one database, only.',
    example: 'switchyard/production',
    schema: z.string().regex(/^[A-Za-z0-9._/-]{1,200}$/, 'must be letters, digits and . _ - /'),
  }),
  SWITCHYARD_S3_REGION: setting({
    group: 'Files',
    description: 'Region of the bucket; for servers that have none, any.',
    default: 'us-east-1',
    example: 'eu-central-1',
    schema: z.string().regex(/^[a-z0-9-]{1,40}$/, 'must be the name of a region'),
  }),
  SWITCHYARD_S3_ENDPOINT: optional({
    group: 'Files',
    description: 'Address of an S3 server that is not AWS.',
    example: 'https://s3.example.com',
    schema: webUrl,
  }),
  SWITCHYARD_S3_PATH_STYLE: setting({
    group: 'Files',
    description:
      'Whether the bucket is named in the path and not in the host name, as many servers besides AWS want it.',
    default: 'false',
    example: 'true',
    schema: flag,
  }),
  SWITCHYARD_S3_ACCESS_KEY_ID: optional({
    group: 'Files',
    description:
      'Who asks S3. Without it: as the AWS SDK finds it (environment, files, web identity, container, instance).',
    example: 'AKIAIOSFODNN7EXAMPLE',
    schema: z.string().min(1),
  }),
  SWITCHYARD_S3_SECRET_ACCESS_KEY: optional({
    group: 'Files',
    description: 'The secret of SWITCHYARD_S3_ACCESS_KEY_ID.',
    secret: true,
    example: 'as the server of S3 gave it',
    schema: secretText(1),
  }),
  SWITCHYARD_S3_DOWNLOADS: setting({
    group: 'Files',
    description:
      'How clients get files that are in S3: redirect sends them to the bucket, for a minute; through has this server pass the bytes on, for a bucket that clients cannot reach.',
    default: 'redirect',
    example: 'through',
    schema: oneOf(['redirect', 'through']),
  }),

  SWITCHYARD_MAX_DOCUMENT_BYTES: setting({
    group: 'Documents',
    description: 'Largest file that can be registered as a document.',
    unit: 'bytes',
    default: '104857600',
    example: '20971520',
    schema: whole(1),
  }),
  SWITCHYARD_MAX_DOCUMENTS: setting({
    group: 'Documents',
    description: 'Most uploaded documents of a workspace.',
    unit: 'documents',
    default: '10000',
    example: '1000',
    schema: whole(0),
  }),
  SWITCHYARD_MAX_DOCUMENTS_BYTES: setting({
    group: 'Documents',
    description: 'Most bytes of the uploaded documents of a workspace, together.',
    unit: 'bytes',
    default: '10737418240',
    example: '1073741824',
    schema: whole(0),
  }),
  SWITCHYARD_MAX_STORED_CELLS: setting({
    group: 'Documents',
    description:
      'Most cells of the extracted tables of a workspace, together. A cell takes about 200 bytes of the database.',
    unit: 'cells',
    default: '50000000',
    example: '5000000',
    schema: whole(0),
  }),
  SWITCHYARD_MAX_CONCURRENT_EXTRACTIONS: setting({
    group: 'Documents',
    description: 'Most extractions of a workspace that are executed at once; more wait.',
    unit: 'extractions',
    default: '2',
    example: '8',
    schema: whole(1, 10_000),
  }),
  SWITCHYARD_EXTRACTOR_URL: optional({
    group: 'Documents',
    description:
      'A program of yours that finds tables in documents, for extraction configurations that ask for the extractor HTTP. docs/documents-extraction.md tells what it is sent and has to answer.',
    example: 'https://extractor.example.com/tables',
    schema: webUrl,
  }),
  SWITCHYARD_EXTRACTOR_KEY: optional({
    group: 'Documents',
    description: 'Sent to SWITCHYARD_EXTRACTOR_URL as a bearer token.',
    secret: true,
    example: 'output of: openssl rand -base64 48',
    schema: secretText(16),
  }),
  SWITCHYARD_EXTRACTION_MEMORY_MB: setting({
    group: 'Documents',
    description: 'Memory that the process may take that reads one document; it is ended when it takes more.',
    unit: 'MiB',
    default: '768',
    example: '1536',
    schema: whole(128, 65_536),
  }),
  SWITCHYARD_EXTRACTION_TIMEOUT_S: setting({
    group: 'Documents',
    description: 'Time that it may take to read one document; the time in which tables are stored is not counted.',
    unit: 'seconds',
    default: '600',
    example: '3600',
    schema: whole(1, 86_400),
  }),

  SWITCHYARD_MAX_DEPTH: setting({
    group: 'GraphQL',
    description: 'Deepest nesting of fields in a document.',
    unit: 'levels',
    default: '12',
    example: '10',
    schema: whole(1, 100),
  }),
  SWITCHYARD_MAX_ALIASES: setting({
    group: 'GraphQL',
    description: 'Most aliases in a document.',
    unit: 'aliases',
    default: '30',
    example: '15',
    schema: whole(0, 10_000),
  }),
  SWITCHYARD_MAX_COST: setting({
    group: 'GraphQL',
    description: 'Highest cost of an operation: one point a field, times the size of the lists around it.',
    unit: 'points',
    default: '5000',
    example: '2000',
    schema: whole(1),
  }),
  SWITCHYARD_MAX_TOKENS: setting({
    group: 'GraphQL',
    description: 'Most lexical tokens in a document.',
    unit: 'tokens',
    default: '2000',
    example: '1000',
    schema: whole(10, 1_000_000),
  }),
  SWITCHYARD_MAX_BATCH: setting({
    group: 'GraphQL',
    description: 'Most operations in one HTTP request.',
    unit: 'operations',
    default: '10',
    example: '1',
    schema: whole(1, 1000),
  }),
  SWITCHYARD_MAX_SOCKETS_PER_ACTOR: setting({
    group: 'GraphQL',
    description:
      'Most WebSocket connections and event streams together of one person or API key, or of one address where nobody is signed in, to one process.',
    unit: 'connections',
    default: '50',
    example: '10',
    schema: whole(1, 100_000),
  }),
  SWITCHYARD_MAX_SUBSCRIPTIONS_PER_SOCKET: setting({
    group: 'GraphQL',
    description: 'Most operations that run at once on one WebSocket connection.',
    unit: 'operations',
    default: '100',
    example: '20',
    schema: whole(1, 100_000),
  }),
  SWITCHYARD_MAX_MESSAGES_PER_S: setting({
    group: 'GraphQL',
    description: 'Most messages a second on one WebSocket connection in the long run; five times as many at once.',
    unit: 'messages/s',
    default: '100',
    example: '20',
    schema: whole(1, 100_000),
  }),
  SWITCHYARD_SHARED_EXECUTION: setting({
    group: 'GraphQL',
    description:
      'Execute an event once for all WebSocket subscribers with the same document, variables and rights, and not for each.',
    default: 'true',
    example: 'false',
    schema: flag,
  }),
  SWITCHYARD_RATES: setting({
    group: 'GraphQL',
    description:
      'Where the points of operations are counted. memory: each process for itself, which is exact with one API process, and with n gives a client n budgets. postgresql: all processes together, at one more statement an operation. redis: all together, cheaper; needs REDIS_URL. What is tried rarely, such as signing in, always counts for all processes: in PostgreSQL, or in Redis with redis.',
    default: {
      words: 'redis with REDIS_URL, else memory',
      of: ({ env }) => (env.has('REDIS_URL') ? 'redis' : 'memory'),
    },
    example: 'postgresql',
    schema: oneOf(['memory', 'postgresql', 'redis']),
  }),
  SWITCHYARD_RATE_POINTS: setting({
    group: 'GraphQL',
    description:
      'Points that the operations of one person or API key may cost in a minute. SWITCHYARD_RATES says whether all processes count together.',
    unit: 'points/min',
    // The dearest operation once a second.
    default: '300000',
    example: '20000',
    schema: whole(1, 1_000_000_000),
  }),
  SWITCHYARD_RATE_POINTS_ANONYMOUS: setting({
    group: 'GraphQL',
    description:
      'The same for everybody together at one address (IPv6: one /64) who is not signed in. Asking for the schema costs 1000.',
    unit: 'points/min',
    default: '20000',
    example: '5000',
    schema: whole(1, 1_000_000_000),
  }),
  SWITCHYARD_GRAPHIQL: setting({
    group: 'GraphQL',
    description: 'Serve the GraphiQL explorer.',
    default: outsideProduction,
    example: 'true',
    schema: flag,
  }),
  SWITCHYARD_INTROSPECTION: setting({
    group: 'GraphQL',
    description: 'Answer introspection queries.',
    default: outsideProduction,
    example: 'true',
    schema: flag,
  }),
  SWITCHYARD_COMPILE: setting({
    group: 'GraphQL',
    description: 'Execute queries that allow it as one SQL statement. They answer the same without, only slower.',
    default: 'true',
    example: 'false',
    schema: flag,
  }),
  SWITCHYARD_PERSISTED_ONLY: setting({
    group: 'GraphQL',
    description: 'Execute only the documents of SWITCHYARD_PERSISTED_FILE.',
    default: 'false',
    example: 'true',
    schema: flag,
  }),
  SWITCHYARD_PERSISTED_FILE: optional({
    group: 'GraphQL',
    description: 'JSON file with one object: SHA-256 of a document (hexadecimal) → the document.',
    example: '/etc/switchyard/persisted-documents.json',
    schema: folder,
  }),

  SWITCHYARD_WORKER_CONCURRENCY: setting({
    group: 'Worker',
    description: 'Most runs that one worker executes at once.',
    unit: 'runs',
    default: '4',
    example: '8',
    schema: whole(1, 256),
  }),
  SWITCHYARD_RUN_LEASE_S: setting({
    group: 'Worker',
    description: 'A worker that has not renewed a run for so long has lost it, and another worker takes the run over.',
    unit: 's',
    default: '10',
    example: '30',
    schema: whole(4, 3600),
  }),
  SWITCHYARD_STOP_GRACE_S: setting({
    group: 'Worker',
    description: 'How long a process that was told to stop may take to finish requests and hand back its runs.',
    unit: 's',
    default: '20',
    example: '25',
    schema: whole(0, 3600),
  }),
  SWITCHYARD_EVENT_RETENTION_DAYS: setting({
    group: 'Worker',
    description:
      'Events older than this are removed; a stream that asks for them gets a StreamGap. So are dead letters, and runs of the server itself that ended before (deletions, whose receipts end with them; rotations of keys).',
    unit: 'days',
    default: '90',
    example: '365',
    schema: whole(1, 36_500),
  }),

  SWITCHYARD_PROCESS_DRIVER: setting({
    group: 'Deployments',
    description:
      'Run deployed applications as processes of this host. They are other users’ code and share its kernel and network, so production has to say it.',
    default: {
      words: 'true outside production; in production it must be set',
      of: ({ mode }) => (mode === 'production' ? undefined : 'true'),
    },
    example: 'false',
    schema: flag,
  }),
  SWITCHYARD_APP_USER_BASE: setting({
    group: 'Deployments',
    description: 'First of the user ids under which deployed applications run when the worker is root.',
    unit: 'user id',
    default: '61184',
    example: '70000',
    schema: whole(1000, 2_000_000_000),
  }),
  SWITCHYARD_APP_MEMORY_MB: setting({
    group: 'Deployments',
    description: 'Memory limit of one deployed application.',
    unit: 'MiB',
    default: '512',
    example: '1024',
    schema: whole(16, 1_048_576),
  }),
  SWITCHYARD_METRICS_INTERVAL_S: setting({
    group: 'Deployments',
    description:
      'How often each instance that serves is asked what it uses and whether it is healthy; 0: never. Each look is kept for a day, minutes for 14 days, hours for 400.',
    unit: 's',
    default: '15',
    example: '60',
    schema: whole(0, 3600),
  }),
  SWITCHYARD_ADDRESS_PORTS: setting({
    group: 'Deployments',
    description: 'Ports from which each application’s stable address is taken, both ends included.',
    unit: 'ports',
    default: '20000-29999',
    example: '21000-21999',
    schema: portRange,
  }),
  SWITCHYARD_INSTANCE_PORTS: setting({
    group: 'Deployments',
    description:
      'Ports on which instances of applications listen, behind the stable addresses; must not overlap with them.',
    unit: 'ports',
    default: '11000-19999',
    example: '12000-12999',
    schema: portRange,
  }),
  SWITCHYARD_APP_MEMORY_MAX_MB: setting({
    group: 'Deployments',
    description: 'The most memory that an application may be given.',
    unit: 'MiB',
    default: '4096',
    example: '8192',
    schema: whole(16, 1_048_576),
  }),
  SWITCHYARD_APP_MILLI_CPUS: setting({
    group: 'Deployments',
    description: 'Processor limit of one deployed application, Docker driver.',
    unit: '1/1000 processor',
    default: '1000',
    example: '500',
    schema: whole(10, 1_000_000),
  }),
  SWITCHYARD_MAX_APPLICATIONS: setting({
    group: 'Deployments',
    description: 'Most applications of a workspace for which operators have said nothing else.',
    unit: 'applications',
    default: '100',
    example: '20',
    schema: whole(0, 100_000),
  }),
  SWITCHYARD_MAX_CONCURRENT_DEPLOYMENTS: setting({
    group: 'Deployments',
    description:
      'Most deployments of a workspace that are executed at once, the same way; more wait. Of one application it is always one.',
    unit: 'deployments',
    default: '20',
    example: '5',
    schema: whole(1, 10_000),
  }),
  SWITCHYARD_RETAINED_RELEASES: setting({
    group: 'Deployments',
    description:
      'Releases of an application that are kept for a rollback, the one that serves not counted, the same way; an application may have fewer.',
    unit: 'releases',
    default: '5',
    example: '3',
    schema: whole(1, 100),
  }),
  SWITCHYARD_APP_MILLI_CPUS_MAX: setting({
    group: 'Deployments',
    description: 'The most processors that an application may be given.',
    unit: '1/1000 processor',
    default: '4000',
    example: '2000',
    schema: whole(10, 1_000_000),
  }),
  SWITCHYARD_DOCKER: setting({
    group: 'Deployments',
    description:
      'Run deployed applications as containers of this host’s Docker engine: auto where it answers, on (a worker without it does not start), off.',
    default: 'auto',
    example: 'on',
    schema: z.enum(['auto', 'on', 'off'], 'must be auto, on or off'),
  }),
  DOCKER_HOST: setting({
    group: 'Deployments',
    description: 'Address of the Docker engine, a socket of this machine.',
    default: 'unix:///var/run/docker.sock',
    example: 'unix:///run/user/1000/docker.sock',
    schema: dockerSocket,
  }),
  SWITCHYARD_DOCKER_NODE_IMAGE: setting({
    group: 'Deployments',
    description: 'Image that Node projects without a Dockerfile are built on.',
    default: 'node:24-slim',
    example: 'registry.example.com/node:24',
    schema: z.string().regex(/^[a-z0-9][a-zA-Z0-9._:/@-]{0,255}$/, 'must be the name of an image'),
  }),
  SWITCHYARD_DOCKER_BUILD_MEMORY_MB: setting({
    group: 'Deployments',
    description: 'Memory limit of each step of an image’s build.',
    unit: 'MiB',
    default: '2048',
    example: '4096',
    schema: whole(16, 1_048_576),
  }),
  SWITCHYARD_DOCKER_BUILD_MILLI_CPUS: setting({
    group: 'Deployments',
    description: 'Processor limit of each step of an image’s build.',
    unit: '1/1000 processor',
    default: '2000',
    example: '4000',
    schema: whole(10, 1_000_000),
  }),
  SWITCHYARD_DOCKER_PATIENCE_S: setting({
    group: 'Deployments',
    description: 'How long a deployment waits for an engine that is away, for instance while it is restarted.',
    unit: 's',
    default: '60',
    example: '300',
    schema: whole(1, 3600),
  }),
  SWITCHYARD_EC2_INSTANCE_ID: optional({
    group: 'Deployments',
    description:
      'Instance whose Docker engine this worker runs applications with as well, through AWS Systems Manager: docs/ec2.md. A worker that cannot reach it does not start. Credentials are those that the AWS SDK finds.',
    example: 'i-0123456789abcdef0',
    schema: z.string().regex(/^m?i-[0-9a-f]{8,17}$/, 'must be the id of an instance, such as i-0123456789abcdef0'),
  }),
  SWITCHYARD_EC2_REGION: optional({
    group: 'Deployments',
    description: 'Region of that instance and of the bucket.',
    example: 'eu-central-1',
    schema: z.string().regex(/^[a-z]{2}(?:-[a-z]+)+-\d{1,2}$/, 'must be a region of AWS, such as eu-central-1'),
  }),
  SWITCHYARD_EC2_BUCKET: optional({
    group: 'Deployments',
    description:
      'S3 bucket for what is on its way to the instance and back: sources, variables, output. Objects are removed at once; give it a rule that removes what is older than a day.',
    example: 'switchyard-transfer',
    schema: z.string().regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'must be the name of a bucket'),
  }),
  SWITCHYARD_EC2_ADDRESS: optional({
    group: 'Deployments',
    description:
      'IPv4 address of that instance that its applications are published on, at SWITCHYARD_INSTANCE_PORTS, and that this host reaches.',
    default: { words: 'the private address that Systems Manager tells', of: () => undefined },
    example: '10.0.1.20',
    schema: z.ipv4({ error: 'must be an IPv4 address' }),
  }),
  SWITCHYARD_EC2_DOCKER_HOST: setting({
    group: 'Deployments',
    description: 'Address of the Docker engine on that instance, a socket there.',
    default: 'unix:///var/run/docker.sock',
    example: 'unix:///run/user/1000/docker.sock',
    schema: dockerSocket,
  }),
  SWITCHYARD_EC2_SSM_ENDPOINT: optional({
    group: 'Deployments',
    description: 'Where Systems Manager is reached, in place of the region’s own address, for instance a VPC endpoint.',
    example: 'https://vpce-0123.ssm.eu-central-1.vpce.amazonaws.com',
    schema: webUrl,
  }),
  SWITCHYARD_EC2_S3_ENDPOINT: optional({
    group: 'Deployments',
    description: 'Where S3 is reached, the same way; the instance must reach it, too.',
    example: 'https://bucket.vpce-0123.s3.eu-central-1.vpce.amazonaws.com',
    schema: webUrl,
  }),
  SWITCHYARD_ADVISORIES: optional({
    group: 'Deployments',
    description:
      'Advisories in the OSV format that dependencies are looked up in: a folder of .json files, or a .zip, .jsonl or .json file. docs/security-scan.md tells how to fetch them.',
    example: '/var/lib/switchyard/osv-npm.zip',
    schema: folder,
  }),
  SWITCHYARD_ADVISORY_REGISTRY: optional({
    group: 'Deployments',
    description:
      'npm registry that is asked for advisories on dependencies, as `npm audit` does: it learns names and versions of packages.',
    example: 'https://registry.example.com',
    schema: webUrl,
  }),
  SWITCHYARD_TRIVY: setting({
    group: 'Deployments',
    description:
      'Also scan what is deployed with the program trivy of PATH: auto where it is installed, on (a worker without it does not start, and a deployment that it did not scan fails), off.',
    default: 'auto',
    example: 'on',
    schema: z.enum(['auto', 'on', 'off'], 'must be auto, on or off'),
  }),
  SWITCHYARD_BUILD_VARIABLES: optional({
    group: 'Deployments',
    description:
      'Names, comma-separated, of this server’s own environment variables that builds are given, for instance where a package registry and its certificates are. No other variable reaches an application.',
    example: 'NPM_CONFIG_REGISTRY,NODE_EXTRA_CA_CERTS',
    schema: variableNames,
  }),

  SWITCHYARD_GIT_PROTOCOLS: setting({
    group: 'Outbound',
    description: `Protocols that Git may fetch by, comma-separated: ${gitProtocols.join(', ')}. file lets every tenant read repositories on this host.`,
    default: {
      words: 'https; outside production https,http,file',
      of: ({ mode }) => (mode === 'production' ? 'https' : 'https,http,file'),
    },
    example: 'https,ssh',
    schema: listOf(gitProtocols),
  }),
  SWITCHYARD_ALLOW_LOOPBACK: setting({
    group: 'Outbound',
    description:
      'Let URLs that users give reach this host’s loopback addresses. Production forbids it unless it is set.',
    default: outsideProduction,
    example: 'false',
    schema: flag,
  }),

  OTEL_EXPORTER_OTLP_ENDPOINT: optional({
    group: 'Telemetry',
    description:
      'Base URL of an OpenTelemetry collector (OTLP over HTTP) that gets the traces. Unset: none are exported.',
    example: 'http://collector.example.com:4318',
    schema: webUrl,
  }),
  METRICS_TOKEN: optional({
    group: 'Telemetry',
    description: 'Bearer token for /metrics, at least 16 bytes. Unset: open outside production, closed in production.',
    secret: true,
    example: 'output of: openssl rand -hex 24',
    schema: secretText(16),
  }),
} as const;

type Settings = typeof settings;
type SettingName = keyof Settings;
type ParsedValues = Partial<Record<SettingName, unknown>>;
type Values = { readonly [K in SettingName]: Settings[K] extends Setting<infer T> ? T : never };

/** The whole configuration; frozen, all the way down. `undefined` means: not set, and there is no default. */
export interface Config {
  readonly mode: Mode;
  readonly production: boolean;
  readonly logLevel: LogLevel;
  readonly roles: { readonly api: boolean; readonly worker: boolean };
  readonly http: {
    readonly host: string;
    /** 0: the system chooses. */
    readonly port: number;
    /** Without trailing slash. Undefined only with port 0: then it follows from the port listened on. */
    readonly publicUrl: string | undefined;
    readonly corsOrigins: readonly string[];
    /** Number of proxies in front. */
    readonly trustProxy: number;
    readonly maxBodyBytes: number;
  };
  readonly session: {
    /** Undefined outside production: generate one with `ensureSecret(stateDir, 'session')`. */
    readonly secret: Secret | undefined;
    readonly ttlS: number;
    /** From signing in, however often the session is renewed. */
    readonly maxAgeS: number;
  };
  readonly accounts: {
    /** Undefined: the server's own. Without trailing slash. */
    readonly appUrl: string | undefined;
    /** Per network. */
    readonly signUpsPerHour: number;
    readonly passwordMemoryKib: number;
    /** Undefined: passwords are not compared with those of breaches. */
    readonly breachedPasswordsUrl: string | undefined;
  };
  readonly signIn: {
    /** Undefined: nobody signs in with GitHub. */
    readonly github:
      | {
          readonly clientId: string;
          readonly clientSecret: Secret;
          readonly url: string;
          readonly apiUrl: string;
        }
      | undefined;
    readonly jwtIssuers: readonly JwtIssuer[];
  };
  readonly github: {
    readonly apiUrl: string;
    /** Undefined: there is no App. */
    readonly app: { readonly id: string; readonly privateKey: Secret } | undefined;
    /** At most two. */
    readonly webhookSecrets: readonly Secret[];
    readonly webhookRetentionDays: number;
  };
  /** E-mail addresses, lower case. */
  readonly operators: readonly string[];
  /** One of them at most; neither only outside production: generate one with `ensureSecret(stateDir, 'encryption')`. */
  readonly encryption: {
    readonly keys: Secret | undefined;
    readonly keysFile: string | undefined;
    readonly kmsKeys: readonly KmsKey[] | undefined;
    readonly kmsEndpoint: string | undefined;
  };
  readonly mail: {
    readonly smtpUrl: Secret | undefined;
    /** Set when `smtpUrl` is. */
    readonly from: MailSender | undefined;
  };
  readonly database: {
    /** Undefined: embedded. */
    readonly url: Secret | undefined;
    /** Undefined exactly when `url` is. */
    readonly directUrl: Secret | undefined;
    readonly poolMax: number;
  };
  readonly wakeUps: { readonly redisUrl: Secret | undefined };
  readonly storage: {
    /** Absolute; may not exist yet. */
    readonly stateDir: string;
    /** Undefined: chosen when the folders are made (`resolveStateDirs`). */
    readonly sharedDir: string | undefined;
    /** Undefined outside production: generate one with `ensureSecret(stateDir, 'storage')`. */
    readonly secret: Secret | undefined;
    readonly maxUploadBytes: number;
    readonly maxOpenUploads: number;
    readonly maxPendingBytes: number;
    /** Null: files are in the state folder. */
    readonly s3: {
      readonly bucket: string;
      readonly prefix: string | undefined;
      readonly region: string;
      readonly endpoint: string | undefined;
      readonly pathStyle: boolean;
      /** Undefined: those that the SDK finds. */
      readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: Secret } | undefined;
      readonly redirects: boolean;
    } | null;
  };
  readonly graphql: {
    readonly graphiql: boolean;
    readonly introspection: boolean;
    readonly compile: boolean;
    readonly persistedOnly: boolean;
    /** Whether WebSocket subscribers who may see the same share executions. */
    readonly sharedExecution: boolean;
    /** Set when `persistedOnly` is true. */
    readonly persistedFile: string | undefined;
  };
  readonly limits: {
    readonly depth: number;
    readonly aliases: number;
    readonly cost: number;
    readonly tokens: number;
    readonly batch: number;
    readonly socketsPerActor: number;
    readonly subscriptionsPerSocket: number;
    readonly messagesPerS: number;
  };
  /** Points a minute. */
  readonly rates: {
    readonly store: 'memory' | 'postgresql' | 'redis';
    readonly points: number;
    readonly anonymousPoints: number;
  };
  readonly worker: {
    readonly concurrency: number;
    readonly runLeaseS: number;
    readonly stopGraceS: number;
    readonly eventRetentionDays: number;
  };
  readonly driver: {
    /** Whether deployed applications may run as processes of this host. */
    readonly process: boolean;
    readonly appUserBase: number;
    readonly metricsIntervalS: number;
    readonly appMemoryMb: number;
    readonly maxMemoryMb: number;
    readonly maxMilliCpus: number;
    readonly quotas: {
      readonly maxApplications: number;
      readonly maxConcurrentDeployments: number;
      readonly retainedReleases: number;
    };
    readonly docker: {
      readonly mode: 'auto' | 'on' | 'off';
      readonly socketPath: string;
      readonly nodeImage: string;
      readonly appMilliCpus: number;
      readonly buildMemoryMb: number;
      readonly buildMilliCpus: number;
      readonly patienceS: number;
    };
    /** Undefined: there is no instance. */
    readonly ec2:
      | {
          readonly instanceId: string;
          readonly region: string;
          readonly bucket: string;
          /** IPv4; null: as Systems Manager tells it. */
          readonly address: string | null;
          readonly socketPath: string;
          readonly ssmEndpoint: string | undefined;
          readonly s3Endpoint: string | undefined;
        }
      | undefined;
    readonly addressPorts: PortRange;
    readonly instancePorts: PortRange;
    /** Folders of PATH, absolute, in order: where git, npm and the like are. */
    readonly pathDirs: readonly string[];
    /** What builds are given of this server's environment. */
    readonly buildEnvironment: Readonly<Record<string, string>>;
  };
  readonly documents: {
    readonly maxBytes: number;
    readonly maxDocuments: number;
    readonly maxStoredBytes: number;
    readonly maxStoredCells: number;
    readonly maxConcurrentExtractions: number;
    readonly memoryMb: number;
    readonly timeoutS: number;
    /** Another program that reads documents; undefined: there is none. */
    readonly external: { readonly url: string; readonly key: Secret | undefined } | undefined;
  };
  /** Scans of what is deployed. */
  readonly scanning: {
    readonly advisoriesPath: string | undefined;
    readonly advisoryRegistryUrl: string | undefined;
    readonly trivy: 'auto' | 'on' | 'off';
  };
  /** The language model; null: there is none. */
  readonly llm: { readonly url: string; readonly key: Secret; readonly model: string; readonly daily: number } | null;
  readonly outbound: { readonly gitProtocols: readonly GitProtocol[]; readonly allowLoopback: boolean };
  readonly telemetry: {
    readonly otlpEndpoint: string | undefined;
    readonly metricsToken: Secret | undefined;
    /** Whether /metrics is answered without a token. When false and there is no token, it is closed. */
    readonly metricsOpen: boolean;
  };
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

function assemble(v: Values, given: ReadonlyMap<string, string>): Config {
  const production = v.NODE_ENV === 'production';
  return {
    mode: v.NODE_ENV,
    production,
    logLevel: v.LOG_LEVEL,
    roles: { api: v.SWITCHYARD_ROLES.includes('api'), worker: v.SWITCHYARD_ROLES.includes('worker') },
    http: {
      host: v.HOST,
      port: v.PORT,
      publicUrl: v.PUBLIC_URL,
      corsOrigins: v.CORS_ORIGINS ?? [],
      trustProxy: v.TRUST_PROXY,
      maxBodyBytes: v.SWITCHYARD_MAX_BODY_BYTES,
    },
    session: { secret: v.SESSION_SECRET, ttlS: v.SESSION_TTL_S, maxAgeS: v.SESSION_MAX_AGE_S },
    accounts: {
      appUrl: v.APP_URL,
      signUpsPerHour: v.SWITCHYARD_SIGN_UPS_PER_HOUR,
      passwordMemoryKib: v.SWITCHYARD_PASSWORD_MEMORY_KIB,
      breachedPasswordsUrl: v.SWITCHYARD_BREACHED_PASSWORDS_URL,
    },
    signIn: {
      github:
        v.GITHUB_CLIENT_ID && v.GITHUB_CLIENT_SECRET
          ? {
              clientId: v.GITHUB_CLIENT_ID,
              clientSecret: v.GITHUB_CLIENT_SECRET,
              url: v.GITHUB_URL,
              apiUrl: v.GITHUB_API_URL,
            }
          : undefined,
      jwtIssuers: v.SWITCHYARD_JWT_ISSUERS ?? [],
    },
    github: {
      apiUrl: v.GITHUB_API_URL,
      app:
        v.GITHUB_APP_ID && v.GITHUB_APP_PRIVATE_KEY
          ? { id: v.GITHUB_APP_ID, privateKey: v.GITHUB_APP_PRIVATE_KEY }
          : undefined,
      webhookSecrets: v.GITHUB_WEBHOOK_SECRETS ?? [],
      webhookRetentionDays: v.SWITCHYARD_WEBHOOK_RETENTION_DAYS,
    },
    llm:
      v.SWITCHYARD_LLM_URL && v.SWITCHYARD_LLM_KEY && v.SWITCHYARD_LLM_MODEL
        ? {
            url: v.SWITCHYARD_LLM_URL,
            key: v.SWITCHYARD_LLM_KEY,
            model: v.SWITCHYARD_LLM_MODEL,
            daily: v.SWITCHYARD_LLM_DAILY,
          }
        : null,
    operators: v.SWITCHYARD_OPERATORS ?? [],
    encryption: {
      keys: v.SWITCHYARD_ENCRYPTION_KEYS,
      keysFile: v.SWITCHYARD_ENCRYPTION_KEYS_FILE,
      kmsKeys: v.SWITCHYARD_ENCRYPTION_KMS_KEYS,
      kmsEndpoint: v.SWITCHYARD_KMS_ENDPOINT,
    },
    mail: { smtpUrl: v.SMTP_URL, from: v.MAIL_FROM },
    database: { url: v.DATABASE_URL, directUrl: v.DATABASE_DIRECT_URL, poolMax: v.DATABASE_POOL_MAX },
    wakeUps: { redisUrl: v.REDIS_URL },
    storage: {
      stateDir: v.SWITCHYARD_STATE_DIR,
      sharedDir: v.SWITCHYARD_SHARED_DIR,
      secret: v.STORAGE_SECRET,
      maxUploadBytes: v.SWITCHYARD_MAX_UPLOAD_BYTES,
      maxOpenUploads: v.SWITCHYARD_MAX_OPEN_UPLOADS,
      maxPendingBytes: v.SWITCHYARD_MAX_PENDING_BYTES,
      s3:
        v.SWITCHYARD_BLOBS === 's3' && v.SWITCHYARD_S3_BUCKET
          ? {
              bucket: v.SWITCHYARD_S3_BUCKET,
              prefix: v.SWITCHYARD_S3_PREFIX,
              region: v.SWITCHYARD_S3_REGION,
              endpoint: v.SWITCHYARD_S3_ENDPOINT,
              pathStyle: v.SWITCHYARD_S3_PATH_STYLE,
              credentials:
                v.SWITCHYARD_S3_ACCESS_KEY_ID && v.SWITCHYARD_S3_SECRET_ACCESS_KEY
                  ? { accessKeyId: v.SWITCHYARD_S3_ACCESS_KEY_ID, secretAccessKey: v.SWITCHYARD_S3_SECRET_ACCESS_KEY }
                  : undefined,
              redirects: v.SWITCHYARD_S3_DOWNLOADS === 'redirect',
            }
          : null,
    },
    graphql: {
      graphiql: v.SWITCHYARD_GRAPHIQL,
      introspection: v.SWITCHYARD_INTROSPECTION,
      compile: v.SWITCHYARD_COMPILE,
      persistedOnly: v.SWITCHYARD_PERSISTED_ONLY,
      sharedExecution: v.SWITCHYARD_SHARED_EXECUTION,
      persistedFile: v.SWITCHYARD_PERSISTED_FILE,
    },
    limits: {
      depth: v.SWITCHYARD_MAX_DEPTH,
      aliases: v.SWITCHYARD_MAX_ALIASES,
      cost: v.SWITCHYARD_MAX_COST,
      tokens: v.SWITCHYARD_MAX_TOKENS,
      batch: v.SWITCHYARD_MAX_BATCH,
      socketsPerActor: v.SWITCHYARD_MAX_SOCKETS_PER_ACTOR,
      subscriptionsPerSocket: v.SWITCHYARD_MAX_SUBSCRIPTIONS_PER_SOCKET,
      messagesPerS: v.SWITCHYARD_MAX_MESSAGES_PER_S,
    },
    rates: {
      store: v.SWITCHYARD_RATES,
      points: v.SWITCHYARD_RATE_POINTS,
      anonymousPoints: v.SWITCHYARD_RATE_POINTS_ANONYMOUS,
    },
    worker: {
      concurrency: v.SWITCHYARD_WORKER_CONCURRENCY,
      runLeaseS: v.SWITCHYARD_RUN_LEASE_S,
      stopGraceS: v.SWITCHYARD_STOP_GRACE_S,
      eventRetentionDays: v.SWITCHYARD_EVENT_RETENTION_DAYS,
    },
    driver: {
      process: v.SWITCHYARD_PROCESS_DRIVER,
      metricsIntervalS: v.SWITCHYARD_METRICS_INTERVAL_S,
      appUserBase: v.SWITCHYARD_APP_USER_BASE,
      appMemoryMb: v.SWITCHYARD_APP_MEMORY_MB,
      maxMemoryMb: v.SWITCHYARD_APP_MEMORY_MAX_MB,
      maxMilliCpus: v.SWITCHYARD_APP_MILLI_CPUS_MAX,
      quotas: {
        maxApplications: v.SWITCHYARD_MAX_APPLICATIONS,
        maxConcurrentDeployments: v.SWITCHYARD_MAX_CONCURRENT_DEPLOYMENTS,
        retainedReleases: v.SWITCHYARD_RETAINED_RELEASES,
      },
      docker: {
        mode: v.SWITCHYARD_DOCKER,
        socketPath: v.DOCKER_HOST,
        nodeImage: v.SWITCHYARD_DOCKER_NODE_IMAGE,
        appMilliCpus: v.SWITCHYARD_APP_MILLI_CPUS,
        buildMemoryMb: v.SWITCHYARD_DOCKER_BUILD_MEMORY_MB,
        buildMilliCpus: v.SWITCHYARD_DOCKER_BUILD_MILLI_CPUS,
        patienceS: v.SWITCHYARD_DOCKER_PATIENCE_S,
      },
      ec2:
        v.SWITCHYARD_EC2_INSTANCE_ID && v.SWITCHYARD_EC2_REGION && v.SWITCHYARD_EC2_BUCKET
          ? {
              instanceId: v.SWITCHYARD_EC2_INSTANCE_ID,
              region: v.SWITCHYARD_EC2_REGION,
              bucket: v.SWITCHYARD_EC2_BUCKET,
              address: v.SWITCHYARD_EC2_ADDRESS ?? null,
              socketPath: v.SWITCHYARD_EC2_DOCKER_HOST,
              ssmEndpoint: v.SWITCHYARD_EC2_SSM_ENDPOINT,
              s3Endpoint: v.SWITCHYARD_EC2_S3_ENDPOINT,
            }
          : undefined,
      addressPorts: v.SWITCHYARD_ADDRESS_PORTS,
      instancePorts: v.SWITCHYARD_INSTANCE_PORTS,
      pathDirs: (given.get('PATH') ?? '/usr/local/bin:/usr/bin:/bin')
        .split(path.delimiter)
        .filter((dir) => path.isAbsolute(dir)),
      buildEnvironment: Object.fromEntries(
        (v.SWITCHYARD_BUILD_VARIABLES ?? []).flatMap((name) => {
          const value = given.get(name);
          return value === undefined ? [] : [[name, value]];
        }),
      ),
    },
    documents: {
      maxBytes: v.SWITCHYARD_MAX_DOCUMENT_BYTES,
      maxDocuments: v.SWITCHYARD_MAX_DOCUMENTS,
      maxStoredBytes: v.SWITCHYARD_MAX_DOCUMENTS_BYTES,
      maxStoredCells: v.SWITCHYARD_MAX_STORED_CELLS,
      maxConcurrentExtractions: v.SWITCHYARD_MAX_CONCURRENT_EXTRACTIONS,
      memoryMb: v.SWITCHYARD_EXTRACTION_MEMORY_MB,
      timeoutS: v.SWITCHYARD_EXTRACTION_TIMEOUT_S,
      external: v.SWITCHYARD_EXTRACTOR_URL
        ? { url: v.SWITCHYARD_EXTRACTOR_URL, key: v.SWITCHYARD_EXTRACTOR_KEY }
        : undefined,
    },
    scanning: {
      advisoriesPath: v.SWITCHYARD_ADVISORIES,
      advisoryRegistryUrl: v.SWITCHYARD_ADVISORY_REGISTRY,
      trivy: v.SWITCHYARD_TRIVY,
    },
    outbound: { gitProtocols: v.SWITCHYARD_GIT_PROTOCOLS, allowLoopback: v.SWITCHYARD_ALLOW_LOOPBACK },
    telemetry: {
      otlpEndpoint: v.OTEL_EXPORTER_OTLP_ENDPOINT,
      metricsToken: v.METRICS_TOKEN,
      metricsOpen: !production && v.METRICS_TOKEN === undefined,
    },
  };
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
