import {
  createRemoteJWKSet,
  customFetch,
  decodeJwt,
  errors,
  jwtVerify,
  type JWTPayload,
  type JWTVerifyGetKey,
} from 'jose';
import { z } from 'zod';
import { IssuerUnavailable, Unauthenticated } from '#kernel/errors.ts';
import type { Logger } from '#kernel/log.ts';
import type { OutboundFetch } from '#kernel/outbound-fetch.ts';

/** An issuer whose JWTs name people of this server. */
export interface TrustedIssuer {
  /** Claim `iss`, exactly. */
  readonly issuer: string;
  readonly jwksUrl: string;
  /** Allowed in `aud` of ID tokens, and in `client_id` or `aud` of access tokens. */
  readonly clientIds: readonly string[];
  readonly use: readonly ('id' | 'access')[];
}

/** What a good token says. */
export interface TokenClaims {
  readonly issuer: string;
  readonly subject: string;
  readonly use: 'id' | 'access';
  /** Null: it has none. */
  readonly email: string | null;
  readonly emailVerified: boolean;
  readonly name: string | null;
  readonly expiresAt: Date;
}

export interface JwtIssuers {
  /** Whether a token says that it is of one of them; nothing is verified. */
  claims(token: string): boolean;
  /**
   * @throws {Unauthenticated} for every token that is not a good one of them
   * @throws {IssuerUnavailable} when the keys could not be fetched within 5 s; cached ones are used as long as they fit
   */
  verify(token: string): Promise<TokenClaims>;
}

export interface JwtIssuersOptions {
  readonly issuers: readonly TrustedIssuer[];
  readonly fetch: OutboundFetch;
  readonly log: Logger;
  /** Least time between two looks for a key that is unknown, or after one that failed, milliseconds. */
  readonly cooldownMs?: number;
  /** Age from which keys are fetched again, beside the requests that use them, milliseconds. */
  readonly refreshMs?: number;
  /** Age from which keys are not used without having been fetched again, milliseconds. */
  readonly maxAgeMs?: number;
}

/** Longest token that is looked at. */
const maxTokenBytes = 8192;
/** How long the keys of an issuer may take to come, milliseconds: for all who wait for them together. */
const fetchMs = 5000;
/** How far an issuer's clock may be ahead or behind, seconds. */
const clockSkewS = 5;
/** Signatures with a key that only the issuer has. A secret that both know, or none, is never one. */
const algorithms = ['RS256', 'ES256', 'EdDSA'];
/** `typ` of the tokens that are meant: RFC 7519 and RFC 9068. Cognito has none. */
const types = new Set(['jwt', 'application/jwt', 'at+jwt', 'application/at+jwt']);
/** Header parameters that would have the token say by which key, or how, it is to be verified. */
const forbiddenHeaders = ['jwk', 'jku', 'x5c', 'x5u', 'crit', 'b64', 'zip'];

const Claims = z.object({
  sub: z.string().min(1).max(255),
  exp: z.number().int(),
  token_use: z.string().optional(),
  client_id: z.string().optional(),
  email: z.string().max(320).optional(),
  email_verified: z.union([z.boolean(), z.enum(['true', 'false'])]).optional(),
  name: z.string().optional(),
});

/** Keys of kinds that are unknown here are for others. */
const JwkSet = z.object({ keys: z.array(z.looseObject({ kty: z.string() })) });

const invalid = () => new Unauthenticated('The token is not valid.');

/**
 * Verifies JWTs of other issuers, shaped as those of Amazon Cognito: ID tokens (`token_use` id, `aud` the client) and
 * access tokens (`token_use` access, `client_id` the client). A token is looked at in this order: length, form and
 * header; signature, by the keys of its issuer's JWKS and no others; then claims.
 *
 * @see https://www.rfc-editor.org/rfc/rfc8725 JSON Web Token best current practices
 * @see https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-tokens-verifying-a-jwt.html
 */
export function createJwtIssuers(options: JwtIssuersOptions): JwtIssuers {
  const issuers = new Map(options.issuers.map((one) => [one.issuer, { ...one, keys: keysOf(one, options) }]));
  // Without a look at anything that costs: the token is somebody's text until it is verified.
  const issuerOf = (token: string) => {
    if (token.length > maxTokenBytes) return undefined;
    try {
      return issuers.get(decodeJwt(token).iss ?? '');
    } catch (error) {
      if (error instanceof errors.JOSEError || error instanceof TypeError) return undefined;
      throw error;
    }
  };
  return {
    claims: (token) => issuerOf(token) !== undefined,
    async verify(token) {
      const issuer = issuerOf(token);
      if (!issuer || !isPlain(token)) throw invalid();
      const payload = await verified(token, issuer);
      const read = Claims.safeParse(payload);
      if (!read.success) throw invalid();
      const claims = read.data;
      const use = useOf(claims.token_use, payload);
      if (use === null || !issuer.use.includes(use)) throw invalid();
      const audiences =
        use === 'access' && claims.client_id !== undefined ? [claims.client_id] : [payload.aud ?? []].flat();
      if (!audiences.some((one) => issuer.clientIds.includes(one))) throw invalid();
      // The tolerance is for clocks that run ahead; it does not prolong a token.
      if (claims.exp * 1000 <= Date.now()) throw new Unauthenticated('The token has expired.');
      return {
        issuer: issuer.issuer,
        subject: claims.sub,
        use,
        email: claims.email ?? null,
        emailVerified: String(claims.email_verified) === 'true',
        name: claims.name?.trim() || null,
        expiresAt: new Date(claims.exp * 1000),
      };
    },
  };
}

/** An issuer that does not say it has ID tokens only if they name an audience and were not made for a resource. */
function useOf(tokenUse: string | undefined, payload: JWTPayload): 'id' | 'access' | null {
  if (tokenUse === 'id' || tokenUse === 'access') return tokenUse;
  if (tokenUse !== undefined || payload.aud === undefined) return null;
  return payload['scope'] === undefined && payload['client_id'] === undefined ? 'id' : 'access';
}

async function verified(token: string, issuer: TrustedIssuer & { keys: JWTVerifyGetKey }): Promise<JWTPayload> {
  try {
    const { payload } = await jwtVerify(token, issuer.keys, {
      algorithms,
      issuer: issuer.issuer,
      clockTolerance: clockSkewS,
      requiredClaims: ['sub', 'exp', 'iat'],
    });
    // jose looks at the future of iat only when asked for an age.
    if ((payload.iat ?? 0) > Date.now() / 1000 + clockSkewS) throw invalid();
    return payload;
  } catch (error) {
    if (error instanceof errors.JWTExpired) throw new Unauthenticated('The token has expired.');
    if (error instanceof errors.JOSEError) throw invalid();
    throw error;
  }
}

/** Whether a token has the one form that there is for it, a harmless header, and no claim twice. */
function isPlain(token: string): boolean {
  const [encodedHeader = '', encodedPayload = ''] = token.split('.');
  if (!/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) return false;
  const header = Buffer.from(encodedHeader, 'base64url').toString();
  const payload = Buffer.from(encodedPayload, 'base64url').toString();
  const read = parsed(header);
  if (read === null || hasDuplicates(header) || hasDuplicates(payload)) return false;
  if (forbiddenHeaders.some((name) => Object.hasOwn(read, name))) return false;
  const { typ, kid } = read as { typ?: unknown; kid?: unknown };
  if (typ !== undefined && !(typeof typ === 'string' && types.has(typ.toLowerCase()))) return false;
  return typeof kid === 'string';
}

function parsed(json: string): object | null {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === 'object' ? value : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

/**
 * Whether an object of valid JSON names a member twice, of which one reader takes the first and another the last.
 * @see https://www.rfc-editor.org/rfc/rfc7519#section-4
 */
function hasDuplicates(json: string): boolean {
  const open: (Set<string> | null)[] = [];
  for (const { 0: part, groups } of json.matchAll(/(?<name>"(?:[^"\\]|\\.)*")(?<colon>\s*:)?|[{}[\]]/g)) {
    if (part === '{') open.push(new Set());
    else if (part === '[') open.push(null);
    else if (part === '}' || part === ']') open.pop();
    else if (groups?.['colon'] !== undefined) {
      const names = open.at(-1);
      const name = JSON.parse(groups['name'] ?? '""') as string;
      if (names?.has(name)) return true;
      names?.add(name);
    }
  }
  return false;
}

/** The keys of an issuer, fetched when they are first needed, when an unknown one is named, and when they are old. */
function keysOf({ jwksUrl }: TrustedIssuer, options: JwtIssuersOptions): JWTVerifyGetKey {
  const { cooldownMs = 30_000, refreshMs = 600_000, maxAgeMs = 86_400_000 } = options;
  let fetchedAt = 0;
  let triedAt = 0;
  let failed = false;
  const jwks = createRemoteJWKSet(new URL(jwksUrl), {
    timeoutDuration: fetchMs,
    cooldownDuration: cooldownMs,
    cacheMaxAge: maxAgeMs,
    [customFetch]: async (url, { headers, signal }) => {
      // An issuer that is away is not asked for every token.
      if (failed && Date.now() < triedAt + cooldownMs) throw new IssuerUnavailable();
      triedAt = Date.now();
      try {
        const answer = await options.fetch(url, { headers, signal });
        if (!answer.ok) throw new Error(`The JWKS was answered with status ${answer.status}`);
        const keys = JwkSet.parse(await answer.json());
        failed = false;
        fetchedAt = Date.now();
        return Response.json(keys);
      } catch (error) {
        failed = true;
        options.log.warn({ err: error, jwksUrl }, 'the keys of an issuer could not be fetched');
        throw new IssuerUnavailable();
      }
    },
  });
  return (header, token) => {
    if (jwks.fresh && Date.now() > Math.max(fetchedAt + refreshMs, triedAt + cooldownMs)) {
      // Whoever asks now is served by the keys that are there; a failure was logged above.
      jwks.reload().catch(() => undefined);
    }
    return jwks(header, token);
  };
}
