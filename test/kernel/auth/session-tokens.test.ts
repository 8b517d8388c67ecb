import { createHmac, generateKeyPairSync } from 'node:crypto';
import { base64url, SignJWT, UnsecuredJWT } from 'jose';
import { describe, expect, it } from 'vitest';
import { createSessionTokens } from '#kernel/auth/session-tokens.ts';
import { Unauthenticated } from '#kernel/errors.ts';

const secret = 'k'.repeat(32);
const issuer = 'https://sy.example.com';
const start = new Date('2030-01-01T00:00:00.000Z');
const startS = start.getTime() / 1000;
const at = (afterS: number) =>
  createSessionTokens({ secret, ttlS: 3600, issuer, now: () => new Date((startS + afterS) * 1000) });
const sessions = at(0);
const userId = '0190b6d0-0000-7000-8000-000000000001';
const sessionId = '0190b6d0-0000-7000-8000-000000000002';
const expiresAt = new Date((startS + 3600) * 1000);

const good = {
  sub: userId,
  iss: issuer,
  aud: 'switchyard-api',
  iat: startS,
  nbf: startS,
  exp: startS + 3600,
  jti: sessionId,
};
const header = { alg: 'HS256', typ: 'switchyard-session+jwt' };

/** A token with any header and claims, properly signed with any key. */
function forge(claims: object, head: object = header, key = secret, hash = 'sha256'): string {
  const body = `${base64url.encode(JSON.stringify(head))}.${base64url.encode(JSON.stringify(claims))}`;
  return `${body}.${createHmac(hash, key).update(body).digest('base64url')}`;
}

const without = (name: keyof typeof good): object =>
  Object.fromEntries(Object.entries(good).filter(([key]) => key !== name));

describe('sessions', () => {
  it('verifies what it issued', async () => {
    const token = await sessions.issue({ userId, sessionId, expiresAt });
    expect(await sessions.verify(token)).toEqual({ userId, sessionId, expiresAt });
    expect(token.length).toBeLessThan(600);
    const [, claims = ''] = token.split('.');
    expect(JSON.parse(Buffer.from(claims, 'base64url').toString())).toEqual(good);
  });

  it('ends to the second, and bears a clock that runs a little behind', async () => {
    const token = await sessions.issue({ userId, sessionId, expiresAt });
    await expect(at(3599).verify(token)).resolves.toMatchObject({ userId });
    await expect(at(3600).verify(token)).rejects.toThrow('has expired');
    await expect(at(4000).verify(token)).rejects.toThrow('has expired');
    await expect(at(-4).verify(token)).resolves.toMatchObject({ userId });
    await expect(at(-10).verify(token)).rejects.toThrow(Unauthenticated);
  });

  it('takes the forged token only when nothing is wrong with it', async () => {
    await expect(sessions.verify(forge(good))).resolves.toMatchObject({ userId });
  });

  it.each<[string, string]>([
    ['an empty text', ''],
    ['no JWT', 'hello'],
    ['two parts', 'a.b'],
    ['five parts', 'a.b.c.d.e'],
    ['white space around', ` ${forge(good)} `],
    ['alg none', new UnsecuredJWT(good).encode()],
    [
      'alg none with the right type',
      `${base64url.encode('{"alg":"none","typ":"switchyard-session+jwt"}')}.${forge(good).split('.')[1] ?? ''}.`,
    ],
    ['alg None with a signature', forge(good, { ...header, alg: 'None' })],
    ['alg HS512', forge(good, { ...header, alg: 'HS512' }, secret, 'sha512')],
    ['no alg', forge(good, { typ: header.typ })],
    ['another type', forge(good, { alg: 'HS256', typ: 'JWT' })],
    ['no type', forge(good, { alg: 'HS256' })],
    ['an unknown critical header', forge(good, { ...header, crit: ['x'], x: 1 })],
    ['payload not encoded', forge(good, { ...header, crit: ['b64'], b64: false })],
    ['an embedded key', forge(good, { ...header, jwk: { kty: 'oct', k: base64url.encode('a') } }, 'a')],
    ['a wrong key', forge(good, header, 'x'.repeat(32))],
    ['no signature', `${forge(good).split('.').slice(0, 2).join('.')}.`],
    ['a changed signature', `${forge(good).slice(0, -2)}${forge(good).endsWith('AA') ? 'BB' : 'AA'}`],
    ['another issuer', forge({ ...good, iss: 'https://evil.example.com' })],
    ['another audience', forge({ ...good, aud: 'other' })],
    ['exp as text', forge({ ...good, exp: '9999999999' })],
    ['exp too far off', forge({ ...good, exp: startS + 99_999, iat: startS - 3700 })],
    ['not yet valid', forge({ ...good, nbf: startS + 60 })],
    ['issued in the future', forge({ ...good, iat: startS + 60 })],
    ['expired', forge({ ...good, exp: startS })],
    ['sub as an object', forge({ ...good, sub: { id: userId } })],
    ['an empty sub', forge({ ...good, sub: '' })],
    ['jti not a UUID', forge({ ...good, jti: '1' })],
    ['claims that are a list', forge([good])],
    ['more than 4 kB', forge({ ...good, padding: 'x'.repeat(5000) })],
    ...(['sub', 'iss', 'aud', 'iat', 'nbf', 'exp', 'jti'] as const).map((name): [string, string] => [
      `no ${name}`,
      forge(without(name)),
    ]),
  ])('refuses %s', async (_, token) => {
    await expect(sessions.verify(token)).rejects.toThrow(Unauthenticated);
  });

  it('refuses an asymmetric signature', async () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const token = await new SignJWT(good).setProtectedHeader({ ...header, alg: 'ES256' }).sign(privateKey);
    await expect(sessions.verify(token)).rejects.toThrow(Unauthenticated);
  });

  it('refuses every token with one bit flipped', async () => {
    const token = await sessions.issue({ userId, sessionId, expiresAt });
    for (let i = 0; i < token.length - 1; i += 7) {
      const flipped = token.slice(0, i) + String.fromCharCode(token.charCodeAt(i) ^ 1) + token.slice(i + 1);
      await expect(sessions.verify(flipped)).rejects.toThrow(Unauthenticated);
    }
  });

  it('wants a long secret', () => {
    expect(() => createSessionTokens({ secret: 'short', ttlS: 1, issuer })).toThrow(RangeError);
  });
});
