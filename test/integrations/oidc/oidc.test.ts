import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { AnswerRefused, createOidc, type Oidc } from '../../../src/integrations/oidc/index.ts';
import { createOutboundPolicy } from '../../../src/kernel/outbound.ts';
import { createOutboundFetch } from '../../../src/kernel/outbound-fetch.ts';

let own: CryptoKeyPair;
let foreign: CryptoKeyPair;
beforeAll(async () => {
  own = await generateKeyPair('RS256');
  foreign = await generateKeyPair('RS256');
});

const soon = () => AbortSignal.timeout(10_000);

/** A provider that says what it is told to. */
async function liar(tokenOf: (issuer: string) => Promise<string>, metadata: object = {}) {
  const server = createServer((req, res) => {
    const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const answer = async (): Promise<object> => {
      switch (req.url ?? '') {
        case '/.well-known/openid-configuration':
          return {
            issuer,
            authorization_endpoint: `${issuer}/auth`,
            token_endpoint: `${issuer}/token`,
            jwks_uri: `${issuer}/jwks`,
            id_token_signing_alg_values_supported: ['RS256'],
            ...metadata,
          };
        case '/jwks':
          return { keys: [{ ...(await exportJWK(own.publicKey)), kid: 'k1', alg: 'RS256' }] };
        default:
          return { access_token: 'x', token_type: 'bearer', id_token: await tokenOf(issuer) };
      }
    };
    void answer().then((body) => res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body)));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const oidc: Oidc = createOidc({
    fetch: createOutboundFetch({ policy: createOutboundPolicy({ allowLoopback: true }) }),
    allowHttp: true,
  });
  const finish = async (signal = AbortSignal.timeout(10_000)) =>
    oidc.finish(
      { issuer, clientId: 'client', clientSecret: 'secret' },
      new URL('http://127.0.0.1:1/cb?code=x&state=the-state'),
      { state: 'the-state', nonce: 'the-nonce', verifier: 'v'.repeat(43) },
      signal,
    );
  return { oidc, issuer, finish };
}

const token =
  (more: object = {}, key = own, header: object = {}) =>
  (issuer: string) =>
    new SignJWT({ nonce: 'the-nonce', email: 'a@example.com', email_verified: true, ...more })
      .setProtectedHeader({ alg: 'RS256', kid: 'k1', ...header })
      .setIssuer((more as { iss?: string }).iss ?? issuer)
      .setAudience((more as { aud?: string }).aud ?? 'client')
      .setSubject('subject')
      .setIssuedAt((more as { iat?: number }).iat)
      .setExpirationTime((more as { exp?: number }).exp ?? '1m')
      .sign((key ?? own).privateKey);

const unsigned = async (issuer: string) => {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: issuer, aud: 'client', sub: 'subject', nonce: 'the-nonce', iat: now, exp: now + 60 };
  return `${part({ alg: 'none' })}.${part(claims)}.`;
};

describe('an ID token', () => {
  test('that is good', async () => {
    const { finish } = await liar(token());
    expect(await finish()).toEqual({ subject: 'subject', email: 'a@example.com', emailVerified: true, name: null });
  });

  test.each<[string, (issuer: string) => Promise<string>]>([
    ['by another key', (issuer) => token({}, foreign)(issuer)],
    ['by an unknown key', (issuer) => token({}, foreign, { kid: 'k9' })(issuer)],
    ['without a signature', unsigned],
    ['with another nonce', token({ nonce: 'another' })],
    ['without a nonce', token({ nonce: undefined })],
    ['for another client', token({ aud: 'another' })],
    ['of another issuer', token({ iss: 'https://evil.example' })],
    ['that has expired', token({ exp: Math.floor(Date.now() / 1000) - 600 })],
    ['that is no token', async () => 'x'],
  ])('%s is refused', async (_, tokenOf) => {
    const { finish } = await liar(tokenOf);
    await expect(finish()).rejects.toBeInstanceOf(AnswerRefused);
  });

  test('with email_verified as a text, or as nonsense', async () => {
    for (const [given, expected] of [
      ['true', true],
      ['false', false],
      [1, false],
      [null, null],
      [undefined, null],
    ] as const) {
      const { finish } = await liar(token({ email_verified: given }));
      expect([given, (await finish()).emailVerified]).toEqual([given, expected]);
    }
  });
});

describe('a provider', () => {
  test.each([
    ['whose sign-in page is a script', { authorization_endpoint: 'javascript:alert(1)' }],
    ['without the code flow', { response_types_supported: ['id_token'] }],
    ['without S256', { code_challenge_methods_supported: ['plain'] }],
    ['without keys', { jwks_uri: undefined }],
  ])('%s is refused', async (_, metadata) => {
    const { oidc, issuer } = await liar(token(), metadata);
    await expect(oidc.check({ issuer, clientId: 'client', clientSecret: null }, soon())).rejects.toMatchObject({
      problem: 'UNSUPPORTED',
    });
  });

  test('that does not answer is left when the signal says so, wherever it stopped', async () => {
    const never = new Promise<string>(() => undefined);
    const { finish } = await liar(() => never);
    const begun = performance.now();
    await expect(finish(AbortSignal.timeout(300))).rejects.toMatchObject({ problem: 'UNREACHABLE' });
    const deaf = createServer(() => undefined);
    await new Promise<void>((resolve) => deaf.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => {
      deaf.closeAllConnections();
      deaf.close();
    });
    const client = {
      issuer: `http://127.0.0.1:${(deaf.address() as AddressInfo).port}`,
      clientId: 'client',
      clientSecret: null,
    };
    const { oidc } = await liar(token());
    for (const call of [
      () => oidc.check(client, AbortSignal.timeout(300)),
      () => oidc.begin(client, 'http://127.0.0.1:1/cb', AbortSignal.timeout(300)),
    ])
      await expect(call()).rejects.toMatchObject({ problem: 'UNREACHABLE' });
    expect(performance.now() - begun).toBeLessThan(5000);
  });

  test('whose addresses lead into the network is not asked there', async () => {
    const { finish } = await liar(token(), { token_endpoint: 'http://169.254.169.254/token' });
    await expect(finish()).rejects.toMatchObject({ problem: 'ADDRESS_REFUSED' });
  });

  test('without TLS is refused where it is not allowed', async () => {
    const { issuer } = await liar(token());
    const strict = createOidc({ fetch: () => Promise.reject(new Error('asked')), allowHttp: false });
    await expect(strict.check({ issuer, clientId: 'client', clientSecret: null }, soon())).rejects.toMatchObject({
      problem: 'ADDRESS_REFUSED',
    });
  });
});
