import path from 'node:path';
import { inspect } from 'node:util';
import { z } from 'zod';

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
export interface Given {
  readonly mode: Mode;
  readonly env: ReadonlyMap<string, string>;
  readonly machine: Machine;
}

/** A default that depends on something: `words` for the reference, `of` for the program (undefined: none). */
export interface DerivedDefault {
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

export const setting = <T>(one: Setting<T> & { readonly default: string | DerivedDefault }): Setting<T> => one;
export const optional = <T>(one: Omit<Setting<T>, 'optional'>): Setting<T | undefined> => ({ ...one, optional: true });

export const outsideProduction: DerivedDefault = {
  words: 'true outside production, false in production',
  of: ({ mode }) => String(mode !== 'production'),
};

/** A whole number in decimal notation, without sign, spaces or exponent. */
export const whole = (min: number, max: number = Number.MAX_SAFE_INTEGER) =>
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

export const flag = z.string().transform((text, context) => {
  if (text === 'true' || text === '1') return true;
  if (text === 'false' || text === '0') return false;
  context.addIssue('must be true or false');
  return z.NEVER;
});

/** Path of the socket of `unix://…`. */
export const dockerSocket = z.string().transform((text, context) => {
  const [, socket = ''] = /^unix:\/\/(\/[^\0]+)$/.exec(text) ?? [];
  if (socket !== '') return socket;
  context.addIssue('must be unix:// and an absolute path: only an engine of this machine is used');
  return z.NEVER;
});

export const split = (text: string): string[] => text.split(',').map((part) => part.trim());

export const listOf = <const T extends string>(allowed: readonly T[]) =>
  z.string().transform((text, context): readonly T[] => {
    const parts = split(text);
    const known = allowed.filter((one) => parts.includes(one));
    if (known.length === new Set(parts).size) return known;
    context.addIssue(`must be a comma-separated list of: ${allowed.join(', ')}`);
    return z.NEVER;
  });

export const oneOf = <const T extends readonly [string, ...string[]]>(values: T) =>
  z.enum(values, { error: `must be one of: ${values.join(', ')}` });

export const parseUrl = (text: string): URL | undefined => (URL.canParse(text) ? new URL(text) : undefined);

export const secretText = (minBytes: number) =>
  z
    .string()
    .refine((text) => Buffer.byteLength(text) >= minBytes, `must have at least ${minBytes} bytes`)
    .transform((text) => new Secret(text));

export const connectionUrl = (...protocols: readonly string[]) =>
  z
    .string()
    .refine(
      (text) => protocols.includes(parseUrl(text)?.protocol ?? ''),
      `must be a URL that starts with ${protocols.map((protocol) => `${protocol}//`).join(' or ')}`,
    )
    .transform((text) => new Secret(text));

/** An http(s) URL without credentials, query or fragment; comes back without a trailing slash. */
export const webUrl = z.string().transform((text, context) => {
  const url = parseUrl(text);
  if (url && /^https?:$/.test(url.protocol) && !url.username && !url.password && !url.search && !url.hash) {
    return url.href.replace(/\/+$/, '');
  }
  context.addIssue('must be an http:// or https:// URL without user name, password, query or fragment');
  return z.NEVER;
});

export const folder = z.string().transform((text) => path.resolve(text));
