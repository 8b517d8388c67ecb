import { z } from 'zod';
import type { RunStatus } from '#prisma';

export const Email = z
  .email()
  .max(320)
  .transform((text) => text.toLowerCase());

/** Length only, after NIST SP 800-63B: 12 to 200 characters, of any kind. How good it is: passwords.ts. */
export const Password = z.string().min(12, 'must have at least 12 characters').max(200);
/** A password that somebody has, or says they have. */
const CurrentPassword = z.string().min(1).max(200).nullish();

export const Name = z
  .string()
  .trim()
  .max(120)
  .refine((text) => /[^\p{Cf}\p{Z}\p{Mn}\u115F\u1160\u2800\u3164\uFFA0]/u.test(text), 'must not be empty')
  // It stands in mails and on pages: what breaks lines or hides in them is no part of a name.
  .refine(
    (text) => !/[\p{Cc}\p{Zl}\p{Zp}\u202A-\u202E\u2066-\u2069]/u.test(text),
    'must not contain control characters',
  );

/** RFC 1123 label. */
const Slug = z
  .string()
  .regex(
    /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
    'must be 1 to 63 lower-case letters, digits and dashes, no dash at the ends',
  );

const RoleInput = z.enum(['OWNER', 'ADMIN', 'MEMBER', 'VIEWER']);

export const SignUp = z.object({ email: Email, password: Password, name: Name });
export const SignIn = z.object({ email: Email, password: z.string().min(1).max(200) });
export const NewWorkspace = z.object({ name: Name, slug: Slug });
export const WorkspaceChange = z
  .object({ id: z.string(), name: Name.nullish(), slug: Slug.nullish() })
  .refine(({ name, slug }) => name != null || slug != null, 'must change something');
/** The short name again, so that nobody deletes the wrong one. */
export const WorkspaceEnd = z.object({
  id: z.string(),
  slug: z.string().max(63),
  idempotencyKey: z.string().nullish(),
});

/** A type, because an interface is no JSON. */
export type WorkspaceDeletionInput = { readonly workspaceId: string };

/** Where the deletion of a workspace or an account stands. */
export type DeletionPhase = 'PENDING' | 'DELETING' | 'DELETED' | 'FAILED' | 'CANCELED';

export const deletionPhases: Readonly<
  Record<DeletionPhase, { readonly status: RunStatus; readonly next: readonly DeletionPhase[] }>
> = {
  PENDING: { status: 'QUEUED', next: ['DELETING', 'FAILED', 'CANCELED'] },
  DELETING: { status: 'RUNNING', next: ['DELETED', 'FAILED', 'CANCELED'] },
  DELETED: { status: 'SUCCEEDED', next: [] },
  FAILED: { status: 'FAILED', next: [] },
  CANCELED: { status: 'CANCELED', next: [] },
};

/** What a deletion did, by part: how many things are gone, and what is left. */
export const DeletionReport = z.record(z.string(), z.object({ removed: z.int(), left: z.array(z.string()) }));
export type DeletionReport = z.output<typeof DeletionReport>;

export const NewInvitation = z.object({ workspaceId: z.string(), email: Email, role: RoleInput });
/** What a mail or a receipt carries: anything else is none of ours, and is looked up as one that does not exist. */
export const Token = z.string().min(1).max(200);
export const RoleChange = z.object({ membershipId: z.string(), role: RoleInput });
/** Verbs that a key may use, by name; `*` alone: all that its role has; none: it only reads. */
const Scopes = z
  .array(z.string().max(100))
  .max(200)
  .transform((names) => (names.includes('*') ? ['*'] : [...new Set(names)].toSorted()));
export const NewKey = z.object({
  workspaceId: z.string(),
  name: Name,
  role: RoleInput,
  scopes: Scopes.default(['*']),
  expiresAt: z
    .date()
    .refine((date) => date > new Date(), 'must be in the future')
    .nullish(),
});
export const KeyChange = z.object({ id: z.string(), name: Name });
export const KeyRotation = z.object({
  id: z.string(),
  /** At most a day. */
  graceS: z
    .int()
    .min(0)
    .max(24 * 3600)
    .default(0),
});

export const Verification = z.object({ token: Token });
export const EmailChange = z.object({ newEmail: Email, password: CurrentPassword });
export const IdentityLink = z.object({ password: CurrentPassword });
export const IdentityUnlink = z.object({ id: z.string(), password: CurrentPassword });
export const PasswordChange = z.object({ currentPassword: z.string().min(1).max(200), newPassword: Password });
export const ResetRequest = z.object({ email: Email });
export const PasswordReset = z.object({ token: Token, newPassword: Password });
export const Deletion = z.object({ password: CurrentPassword, idempotencyKey: z.string().nullish() });
export const Receipt = Token;

/** BCP 47, given back in its canonical form. @see https://www.rfc-editor.org/info/bcp47 */
const Locale = z
  .string()
  .max(64)
  .transform((text, context) => {
    const tag = attempt(() => Intl.getCanonicalLocales(text)[0]);
    if (tag !== undefined && tag.length <= 64) return tag;
    context.addIssue('must be a BCP 47 language tag, such as de-AT');
    return z.NEVER;
  });

/** A name of the IANA time zone database, given back as the one that is in use today. @see https://www.iana.org/time-zones */
const TimeZone = z
  .string()
  .max(64)
  .transform((text, context) => {
    // Intl takes offsets too, which know no daylight saving.
    const zone = /^[A-Za-z]/.test(text)
      ? attempt(() => new Intl.DateTimeFormat('en', { timeZone: text }).resolvedOptions().timeZone)
      : undefined;
    if (zone !== undefined) return zone;
    context.addIssue('must be an IANA time zone, such as Europe/Vienna');
    return z.NEVER;
  });

function attempt<T>(make: () => T): T | undefined {
  try {
    return make();
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** What is absent stays; null removes. */
export const ProfileChange = z.object({
  name: Name.nullish().refine((name) => name !== null, 'must not be null'),
  locale: Locale.nullish(),
  timeZone: TimeZone.nullish(),
});

/** Largest document, bytes, as PostgreSQL writes it; the table has the same limit. */
export const maxStateBytes = 262_144;
/** Deepest nesting of a document. */
const maxStateDepth = 32;

/**
 * A JSON object that a jsonb column can hold.
 * @see https://www.postgresql.org/docs/current/datatype-json.html
 */
const JsonObject = z.unknown().transform((value, context): Readonly<Record<string, unknown>> => {
  const problem = isObject(value) ? problemOf(value, 1) : 'must be an object';
  if (problem === null && Buffer.byteLength(JSON.stringify(value)) <= maxStateBytes) return value as never;
  context.addIssue(problem ?? `must have at most ${maxStateBytes} bytes`);
  return z.NEVER;
});

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function problemOf(value: unknown, depth: number): string | null {
  if (typeof value === 'string')
    return isStorable(value) ? null : 'must not contain U+0000 or half of a surrogate pair';
  if (typeof value === 'number') return Number.isFinite(value) ? null : 'must not contain a number that JSON has not';
  if (typeof value !== 'object' || value === null) return null;
  if (depth > maxStateDepth) return `must have at most ${maxStateDepth} levels`;
  for (const [name, member] of Object.entries(value)) {
    const problem = problemOf(name, depth) ?? problemOf(member, depth + 1);
    if (problem) return problem;
  }
  return null;
}

const isStorable = (text: string): boolean => text.isWellFormed() && !text.includes('\0');

export const StateWrite = z.object({
  value: JsonObject,
  // The next one must fit its column too.
  expectedVersion: z.int().min(0).max(2_147_483_646),
});
export const StatePatch = z.object({ patch: JsonObject });

/** What a deletion is asked to do. A type, because an interface is no JSON. */
export type AccountDeletionInput = { readonly userId: string; readonly receiptHash: string };

/** How many of what a deletion has dealt with, by name. */
export const AccountDeletionReport = z.record(z.string(), z.int());
export type AccountDeletionReport = z.output<typeof AccountDeletionReport>;

/** Providers at which anybody gets an address: nobody's own. */
const publicMailDomains = new Set(
  `aol.com fastmail.com free.fr gmail.com gmx.at gmx.ch gmx.com gmx.de gmx.net googlemail.com hey.com hotmail.co.uk
  hotmail.com hotmail.de hotmail.fr hotmail.it hushmail.com icloud.com inbox.com laposte.net libero.it live.com live.de
  mac.com mail.com mail.ru mailbox.org me.com msn.com naver.com orange.fr outlook.com outlook.de pm.me posteo.de proton.me
  protonmail.ch protonmail.com qq.com rediffmail.com rocketmail.com seznam.cz sina.com t-online.de tutanota.com tuta.io
  wanadoo.fr web.de wp.pl yahoo.co.jp yahoo.co.uk yahoo.com yahoo.de yahoo.fr yandex.com yandex.ru ymail.com zoho.com
  126.com 163.com`.split(/\s+/),
);

/** A domain name in lower case and ASCII, as URLs have it; null: it is none, or a single label, or an address. */
function domainName(text: string): string | null {
  const host = /^[\p{L}\p{N}.-]{1,253}$/u.test(text) ? URL.parse(`http://${text}`)?.hostname : undefined;
  const label = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?';
  return host && new RegExp(`^(?:${label}\\.)+(?!\\d+$)${label}$`).test(host) ? host : null;
}

/** The domain of an e-mail address; null: it is none. */
export const domainOfEmail = (email: string): string | null => domainName(email.slice(email.lastIndexOf('@') + 1));

const Domain = z.string().transform((text, context) => {
  const domain = domainName(text.trim());
  if (domain !== null && !publicMailDomains.has(domain)) return domain;
  context.addIssue(
    domain === null ? 'must be a domain name, such as example.com' : 'is a public mail provider: nobody can claim it',
  );
  return z.NEVER;
});

const ClientId = z.string().trim().min(1, 'must not be empty').max(300);
const ClientSecret = z.string().min(1, 'must not be empty').max(1000);
/** Nobody becomes an owner by signing in. */
const ProvisionRole = z.enum(['ADMIN', 'MEMBER', 'VIEWER'], { error: 'must be ADMIN, MEMBER or VIEWER' });

export const NewSsoConnection = z.object({
  workspaceId: z.string(),
  name: Name,
  issuer: z.url().max(300),
  clientId: ClientId,
  clientSecret: ClientSecret.nullish(),
  provisionRole: ProvisionRole.nullish(),
  trustEmail: z.boolean().nullish(),
});
/** Not the issuer: who is known by it would be somebody else at another one. */
export const SsoConnectionChange = z.object({
  id: z.string(),
  name: Name.nullish(),
  clientId: ClientId.nullish(),
  /** Undefined: as it is; null: none any more. */
  clientSecret: ClientSecret.nullable().optional(),
  provisionRole: ProvisionRole.nullable().optional(),
  trustEmail: z.boolean().nullish(),
});
export const NewSsoDomain = z.object({ workspaceId: z.string(), domain: Domain });
export const SsoEnforcement = z.object({ workspaceId: z.string(), enforced: z.boolean() });
