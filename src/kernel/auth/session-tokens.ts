import { createSecretKey } from 'node:crypto';
import { errors, jwtVerify, SignJWT } from 'jose';
import { z } from 'zod';
import { Unauthenticated } from '../errors.ts';

/** `aud` of every session token: the API itself. */
const audience = 'switchyard-api';
/** Explicit type, so that no other kind of token signed with the same key passes (RFC 8725, 3.11). */
const tokenType = 'switchyard-session+jwt';
/** Longest token that is looked at. A real one has about 400. */
const maxTokenBytes = 4096;
/** How far the clocks of two processes may differ, in seconds. */
const clockSkewS = 5;

const claims = z.object({
  sub: z.string().min(1).max(64),
  jti: z.uuid(),
  exp: z.int(),
  iat: z.number(),
});

/** What a session token says. */
export interface SessionToken {
  /** Claim `sub`. */
  readonly userId: string;
  /** Claim `exp`, to the second. */
  readonly expiresAt: Date;
  /** Claim `jti`: id of the session's row, without which the token is worth nothing. */
  readonly sessionId: string;
}

export interface SessionTokens {
  /** @param of `expiresAt` is cut to the second */
  issue(of: SessionToken): Promise<string>;
  /** @throws Unauthenticated for every token that is not a live one of this issuer */
  verify(token: string): Promise<SessionToken>;
  /** Whether a token that was verified and said this would be still: that is a matter of time alone. */
  isLive(said: SessionToken): boolean;
}

export interface SessionOptions {
  /** At least 32 bytes, the same in every process. */
  readonly secret: string;
  /** Longest life of a token, seconds. */
  readonly ttlS: number;
  /** Claim `iss`: the public URL of the server. */
  readonly issuer: string;
  /** The clock; for tests. */
  readonly now?: () => Date;
}

/**
 * Session tokens: JWTs signed with HS256 and nothing else, with the claims `sub` (user id), `iss`, `aud`
 * (`switchyard-api`), `iat`, `nbf`, `exp` and `jti` (session id). What ends one before its time is the session's row.
 *
 * @see https://www.rfc-editor.org/rfc/rfc7519
 * @see https://www.rfc-editor.org/rfc/rfc8725
 */
export function createSessionTokens({ secret, ttlS, issuer, now = () => new Date() }: SessionOptions): SessionTokens {
  if (Buffer.byteLength(secret) < 32) throw new RangeError('The session secret must have at least 32 bytes');
  const key = createSecretKey(secret, 'utf8');
  const seconds = (): number => Math.floor(now().getTime() / 1000);
  /** Claim `iat`, seconds. */
  const issued = new WeakMap<SessionToken, number>();

  return {
    issue({ userId, sessionId, expiresAt }) {
      const issuedAt = seconds();
      return new SignJWT()
        .setProtectedHeader({ alg: 'HS256', typ: tokenType })
        .setSubject(userId)
        .setIssuer(issuer)
        .setAudience(audience)
        .setIssuedAt(issuedAt)
        .setNotBefore(issuedAt)
        .setExpirationTime(Math.floor(expiresAt.getTime() / 1000))
        .setJti(sessionId)
        .sign(key);
    },

    async verify(token) {
      if (token.length > maxTokenBytes) throw new Unauthenticated('The session token is not valid.');
      const payload = await jwtVerify(token, key, {
        algorithms: ['HS256'],
        typ: tokenType,
        issuer,
        audience,
        maxTokenAge: ttlS,
        clockTolerance: clockSkewS,
        requiredClaims: ['sub', 'jti', 'exp', 'nbf', 'iat'],
        currentDate: now(),
      }).then(
        (result) => result.payload,
        (error: unknown) => {
          if (error instanceof errors.JWTExpired) throw new Unauthenticated('The session has expired. Sign in again.');
          if (error instanceof errors.JOSEError) throw new Unauthenticated('The session token is not valid.');
          throw error;
        },
      );
      const read = claims.safeParse(payload);
      if (!read.success) throw new Unauthenticated('The session token is not valid.');
      const { sub, jti, exp, iat } = read.data;
      // The tolerance is for clocks that run behind; it does not prolong a session.
      if (exp <= seconds()) throw new Unauthenticated('The session has expired. Sign in again.');
      const said = { userId: sub, sessionId: jti, expiresAt: new Date(exp * 1000) };
      issued.set(said, iat);
      return said;
    },

    isLive(said) {
      const iat = issued.get(said);
      const age = iat === undefined ? Infinity : seconds() - iat;
      return age >= 0 && age <= ttlS && said.expiresAt.getTime() > seconds() * 1000;
    },
  };
}
