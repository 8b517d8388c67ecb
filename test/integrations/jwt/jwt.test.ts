import { createHmac, createPublicKey } from 'node:crypto';
import { exportJWK, exportSPKI, generateKeyPair, SignJWT, type JWK } from 'jose';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createJwtIssuers, type JwtIssuers } from '../../../src/integrations/jwt/index.ts';
import { IssuerUnavailable, Unauthenticated } from '../../../src/kernel/errors.ts';
import { keptLog } from '../../support/http.ts';
import { until } from '../../support/embedded.ts';

const issuer = 'https://issuer.example/pool';
const client = 'client-1';

interface Key {
  readonly kid: string;
  readonly alg: string;
  readonly privateKey: CryptoKey;
  readonly publicKey: CryptoKey;
  readonly jwk: JWK;
}
async function newKey(kid: string, alg = 'RS256'): Promise<Key> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  return { kid, alg, privateKey, publicKey, jwk: { ...(await exportJWK(publicKey)), kid, alg, use: 'sig' } };
}

let keys: Key[];
let [first, second, foreign]: Key[] = [];
/** What the JWKS address answers. */
let published: unknown;
let down: boolean;
let asked: number;

beforeAll(async () => {
  keys = [await newKey('k1'), await newKey('k2', 'ES256'), await newKey('k1')];
  [first, second, foreign] = keys;
});
beforeEach(() => {
  published = { keys: [first?.jwk, second?.jwk] };
  down = false;
  asked = 0;
});

const made = (more: Partial<Parameters<typeof createJwtIssuers>[0]> = {}): JwtIssuers =>
  createJwtIssuers({
    issuers: [{ issuer, jwksUrl: `${issuer}/.well-known/jwks.json`, clientIds: [client], use: ['id', 'access'] }],
    fetch: async () => {
      asked++;
      if (down) throw new Error('ECONNREFUSED');
      return Response.json(published);
    },
    log: keptLog('silent').log,
    ...more,
  });

const now = () => Math.floor(Date.now() / 1000);
const idClaims = (): Record<string, unknown> => ({
  iss: issuer,
  sub: 'subject',
  aud: client,
  token_use: 'id',
  email: 'a@example.com',
  email_verified: true,
  iat: now(),
  exp: now() + 300,
});
const accessClaims = (): Record<string, unknown> => ({
  iss: issuer,
  sub: 'subject',
  client_id: client,
  token_use: 'access',
  scope: 'openid',
  iat: now(),
  exp: now() + 300,
});

const sign = (claims: Record<string, unknown>, key = first as Key, header: object = {}): Promise<string> =>
  new SignJWT(claims).setProtectedHeader({ alg: key.alg, kid: key.kid, ...header }).sign(key.privateKey);

const encode = (text: string | object) =>
  Buffer.from(typeof text === 'string' ? text : JSON.stringify(text)).toString('base64url');
/** A token with a good signature over any two texts. */
async function signTexts(header: string | object, payload: string | object, key = first as Key): Promise<string> {
  const text = `${encode(header)}.${encode(payload)}`;
  const signature = await crypto.subtle.sign({ name: 'RSASSA-PKCS1-v1_5' }, key.privateKey, Buffer.from(text));
  return `${text}.${Buffer.from(signature).toString('base64url')}`;
}
const head = (more: object = {}) => ({ alg: 'RS256', kid: 'k1', ...more });

const refused = async (issuers: JwtIssuers, token: string): Promise<string> =>
  issuers.verify(token).then(
    () => 'taken',
    (error: unknown) => {
      if (error instanceof Unauthenticated || error instanceof IssuerUnavailable) return error.code;
      throw error;
    },
  );

describe('tokens that are taken', () => {
  test('an ID token', async () => {
    const claims = { ...idClaims(), name: ' Ada ' };
    expect(await made().verify(await sign(claims))).toEqual({
      issuer,
      subject: 'subject',
      use: 'id',
      email: 'a@example.com',
      emailVerified: true,
      name: 'Ada',
      expiresAt: new Date((claims as { exp?: number }).exp! * 1000),
    });
  });
  test.each([
    ['an access token, with client_id and no aud', () => sign(accessClaims())],
    ['one by another key of the issuer', () => sign(idClaims(), second)],
    ['one with typ', () => sign(idClaims(), first, { typ: 'JWT' })],
    ['one with the typ of RFC 9068', () => sign({ ...accessClaims(), aud: client }, first, { typ: 'at+jwt' })],
    ['one for several audiences', () => sign({ ...idClaims(), aud: ['other', client] })],
    ['one of an issuer that does not say which use', () => sign({ ...idClaims(), token_use: undefined })],
    ['email_verified as Cognito writes it for some providers', () => sign({ ...idClaims(), email_verified: 'true' })],
    ['one of a clock that is ahead by a few seconds', () => sign({ ...idClaims(), iat: now() + 3, nbf: now() + 3 })],
  ])('%s', async (_, token) => {
    expect(await refused(made(), await token())).toBe('taken');
  });
  test('whose e-mail address is not said to be verified', async () => {
    for (const email_verified of [undefined, false, 'false'])
      expect(await made().verify(await sign({ ...idClaims(), email_verified }))).toMatchObject({
        emailVerified: false,
      });
  });
});

describe('tokens that are refused', () => {
  const publicPem = async () => exportSPKI((first as Key).publicKey);
  const hmac = (alg: string, hash: string, key: string | Buffer) => {
    const text = `${encode(head({ alg }))}.${encode(idClaims())}`;
    return `${text}.${createHmac(hash, key).update(text).digest('base64url')}`;
  };
  const parts = async () => (await sign(idClaims())).split('.') as [string, string, string];
  const table: [string, () => string | Promise<string>][] = [
    ['alg none', () => `${encode(head({ alg: 'none' }))}.${encode(idClaims())}.`],
    [
      'alg none with a signature',
      async () => `${encode(head({ alg: 'none' }))}.${encode(idClaims())}.${(await parts())[2]}`,
    ],
    ['alg NONE', () => `${encode(head({ alg: 'nOnE' }))}.${encode(idClaims())}.eA`],
    ['no alg', () => signTexts({ kid: 'k1' }, idClaims())],
    ['HS256 with the public key as PEM', async () => hmac('HS256', 'sha256', await publicPem())],
    [
      'HS256 with the public key as DER',
      async () => hmac('HS256', 'sha256', createPublicKey(await publicPem()).export({ type: 'spki', format: 'der' })),
    ],
    ['HS256 with the modulus', () => hmac('HS256', 'sha256', Buffer.from(first?.jwk.n ?? '', 'base64url'))],
    ['HS512 with the public key', async () => hmac('HS512', 'sha512', await publicPem())],
    ['HS256 with an empty key', () => hmac('HS256', 'sha256', '')],
    [
      'an algorithm that is not on the list, RS512',
      async () => {
        const key = await newKey('k1', 'RS512');
        published = { keys: [{ ...key.jwk, alg: undefined }] };
        return sign(idClaims(), key);
      },
    ],
    ['another algorithm than the key’s', () => signTexts(head({ alg: 'ES256' }), idClaims())],
    ['a key of somebody else with the same kid', () => sign(idClaims(), foreign)],
    ['an unknown kid', async () => sign(idClaims(), first, { kid: 'k9' })],
    ['no kid', async () => signTexts({ alg: 'RS256' }, idClaims())],
    ['a kid that is no text', async () => signTexts(head({ kid: 1 }), idClaims())],
    ['expired', () => sign({ ...idClaims(), exp: now() - 60 })],
    ['expired within the tolerance', () => sign({ ...idClaims(), exp: now() - 1 })],
    ['not yet good', () => sign({ ...idClaims(), nbf: now() + 60 })],
    ['issued in the future', () => sign({ ...idClaims(), iat: now() + 60 })],
    ['another audience', () => sign({ ...idClaims(), aud: 'client-2' })],
    ['an audience that begins the same', () => sign({ ...idClaims(), aud: `${client}x` })],
    ['no audience', () => sign({ ...idClaims(), aud: undefined })],
    ['an access token of another client', () => sign({ ...accessClaims(), client_id: 'client-2' })],
    [
      'an access token of another client for our audience',
      () => sign({ ...accessClaims(), client_id: 'client-2', aud: client }),
    ],
    ['an access token of no client', () => sign({ ...accessClaims(), client_id: undefined })],
    ['another issuer', () => sign({ ...idClaims(), iss: 'https://evil.example' })],
    ['an issuer with a slash more', () => sign({ ...idClaims(), iss: `${issuer}/` })],
    ['no issuer', () => sign({ ...idClaims(), iss: undefined })],
    ['another token_use', () => sign({ ...idClaims(), token_use: 'refresh' })],
    ['a token_use that is no text', () => sign({ ...idClaims(), token_use: ['id'] })],
    ['no sub', () => sign({ ...idClaims(), sub: undefined })],
    ['an empty sub', () => sign({ ...idClaims(), sub: '' })],
    ['a sub that is too long', () => sign({ ...idClaims(), sub: 'x'.repeat(256) })],
    ['no exp', () => sign({ ...idClaims(), exp: undefined })],
    ['an exp that is no number', () => signTexts(head(), { ...idClaims(), exp: String(now() + 300) })],
    ['no iat', () => sign({ ...idClaims(), iat: undefined })],
    ['a jwk in the header', async () => sign(idClaims(), foreign, { jwk: foreign?.jwk })],
    ['a jwk in the header, of the right key', async () => sign(idClaims(), first, { jwk: first?.jwk })],
    ['jku', () => sign(idClaims(), foreign, { jku: 'https://evil.example/jwks.json' })],
    ['x5u', () => sign(idClaims(), foreign, { x5u: 'https://evil.example/x.pem' })],
    ['x5c', () => sign(idClaims(), first, { x5c: ['MIIB'] })],
    ['crit', () => signTexts(head({ crit: ['x'], x: 1 }), idClaims())],
    ['crit of nothing', () => signTexts(head({ crit: [] }), idClaims())],
    ['b64 false', () => signTexts(head({ b64: false, crit: ['b64'] }), idClaims())],
    ['zip', () => signTexts(head({ zip: 'DEF' }), idClaims())],
    ['typ of something else', () => sign(idClaims(), first, { typ: 'switchyard-session+jwt' })],
    ['a claim twice', () => signTexts(head(), JSON.stringify(idClaims()).replace('{', '{"sub":"victim",'))],
    [
      'a claim twice, once escaped',
      () => signTexts(head(), JSON.stringify(idClaims()).replace('{', '{"s\\u0075b":"victim",')),
    ],
    ['a header parameter twice', () => signTexts('{"alg":"RS256","kid":"k2","kid":"k1"}', idClaims())],
    ['too long', () => sign({ ...idClaims(), x: 'x'.repeat(8192) })],
    ['cut', async () => (await sign(idClaims())).slice(0, -20)],
    ['without a signature', async () => (await parts()).slice(0, 2).join('.')],
    ['with an empty signature', async () => `${(await parts()).slice(0, 2).join('.')}.`],
    [
      'a payload that was changed',
      async () => {
        const [header, , signature] = await parts();
        return `${header}.${encode({ ...idClaims(), sub: 'victim' })}.${signature}`;
      },
    ],
    [
      'a header that was changed',
      async () => {
        const [, payload, signature] = await parts();
        return `${encode(head({ typ: 'JWT' }))}.${payload}.${signature}`;
      },
    ],
    [
      'a signature of another token',
      async () => {
        const [header, payload] = await parts();
        return `${header}.${payload}.${(await sign(accessClaims())).split('.')[2]}`;
      },
    ],
    [
      'a signature of zeros',
      async () => `${(await parts()).slice(0, 2).join('.')}.${Buffer.alloc(256).toString('base64url')}`,
    ],
    ['padding', async () => `${await sign(idClaims())}==`],
    ['white space after', async () => `${await sign(idClaims())}\n`],
    ['white space inside', async () => (await sign(idClaims())).replace('.', ' .')],
    ['a fourth part', async () => `${await sign(idClaims())}.eA`],
    [
      'base64 instead of base64url',
      async () => (await parts()).map((one) => Buffer.from(one, 'base64url').toString('base64')).join('.'),
    ],
    ['a payload that is a list', () => signTexts(head(), [idClaims()])],
    ['a payload that is no JSON', () => signTexts(head(), 'x')],
    ['a header that is no JSON', () => signTexts('x', idClaims())],
    [
      'JSON serialization',
      async () => {
        const [header, payload, signature] = await parts();
        return JSON.stringify({ protected: header, payload, signature });
      },
    ],
    ['nothing', () => ''],
    ['dots', () => '..'],
  ];
  test.each(table)('%s', async (_, token) => {
    const text = await token();
    const issuers = made();
    expect(await refused(issuers, text)).toBe('UNAUTHENTICATED');
    // The one that it was made of is good.
    published = { keys: [first?.jwk, second?.jwk] };
    expect(await refused(made(), await sign(idClaims()))).toBe('taken');
  });

  test('an access token where only ID tokens are wanted, and the other way round', async () => {
    const trusted = { issuer, jwksUrl: `${issuer}/jwks`, clientIds: [client] };
    expect(await refused(made({ issuers: [{ ...trusted, use: ['id'] }] }), await sign(accessClaims()))).toBe(
      'UNAUTHENTICATED',
    );
    expect(await refused(made({ issuers: [{ ...trusted, use: ['access'] }] }), await sign(idClaims()))).toBe(
      'UNAUTHENTICATED',
    );
  });

  test('a token of one issuer by the key of another', async () => {
    const issuers = made({
      issuers: [
        { issuer, jwksUrl: 'https://a.example/jwks', clientIds: [client], use: ['id'] },
        { issuer: 'https://b.example', jwksUrl: 'https://b.example/jwks', clientIds: [client], use: ['id'] },
      ],
      fetch: async (url) => Response.json({ keys: [String(url).startsWith('https://a.') ? first?.jwk : foreign?.jwk] }),
    });
    expect(await refused(issuers, await sign(idClaims()))).toBe('taken');
    expect(await refused(issuers, await sign({ ...idClaims(), iss: 'https://b.example' }))).toBe('UNAUTHENTICATED');
    expect(await refused(issuers, await sign({ ...idClaims(), iss: 'https://b.example' }, foreign))).toBe('taken');
  });

  test('nothing is fetched for a token that nobody claims', async () => {
    const issuers = made();
    expect(issuers.claims(await sign({ ...idClaims(), iss: 'https://evil.example' }))).toBe(false);
    expect(issuers.claims('x'.repeat(100_000))).toBe(false);
    expect(issuers.claims('a.b.c')).toBe(false);
    expect(issuers.claims(await sign(idClaims()))).toBe(true);
    expect(asked).toBe(0);
  });
});

describe('the keys of an issuer', () => {
  test('are fetched once, also by many at once', async () => {
    const issuers = made();
    const token = await sign(idClaims());
    await Promise.all(Array.from({ length: 20 }, () => issuers.verify(token)));
    await issuers.verify(token);
    expect(asked).toBe(1);
  });

  test('rotate: a key is taken once it is published, and not after it was taken back', async () => {
    const issuers = made({ cooldownMs: 0, refreshMs: 0 });
    published = { keys: [first?.jwk] };
    const [old, fresh] = [await sign(idClaims()), await sign(idClaims(), second)];
    expect(await refused(issuers, old)).toBe('taken');
    expect(await refused(issuers, fresh)).toBe('UNAUTHENTICATED'); // not rotated yet
    published = { keys: [first?.jwk, second?.jwk] };
    expect(await refused(issuers, fresh)).toBe('taken');
    published = { keys: [second?.jwk] };
    await until('the retired key is gone', async () => (await refused(issuers, old)) === 'UNAUTHENTICATED');
    expect(await refused(issuers, fresh)).toBe('taken');
  });

  test('are not fetched for every unknown kid', async () => {
    const issuers = made();
    await issuers.verify(await sign(idClaims()));
    const unknown = await sign(idClaims(), first, { kid: 'k9' });
    for (let i = 0; i < 10; i++) expect(await refused(issuers, unknown)).toBe('UNAUTHENTICATED');
    expect(asked).toBe(1);
  });

  test('while they cannot be fetched: try later; those that are there go on, and nobody is asked again and again', async () => {
    down = true;
    const issuers = made({ refreshMs: 0, cooldownMs: 200 });
    const token = await sign(idClaims());
    for (let i = 0; i < 10; i++) expect(await refused(issuers, token)).toBe('ISSUER_UNAVAILABLE');
    expect(asked).toBe(1);
    down = false;
    await until('it is there again', async () => (await refused(issuers, token)) === 'taken');
    down = true;
    const before = asked;
    await until('it was asked again', async () => {
      expect(await refused(issuers, token)).toBe('taken');
      return asked > before;
    });
    expect(await refused(issuers, token)).toBe('taken');
    const unknown = await sign(idClaims(), first, { kid: 'k9' });
    expect(['ISSUER_UNAVAILABLE', 'UNAUTHENTICATED']).toContain(await refused(issuers, unknown));
  });

  test('that are none', async () => {
    for (const nonsense of [{}, { keys: 'x' }, [], null, { keys: [1] }]) {
      published = nonsense;
      expect(await refused(made(), await sign(idClaims()))).toBe('ISSUER_UNAVAILABLE');
    }
  });
});
