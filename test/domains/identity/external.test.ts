import '../../support/probe.ts';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { person, workspace, type Person } from '../../support/actors.ts';
import { data, send } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { Follower } from '../../support/live.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { memberOf } from '../../support/world.ts';

const client = 'client-1';
let jwks: Server;
let issuer: string;
let closed: string;
let down = false;
let key: CryptoKey;
let server: TestServer;
let ada: Person;

beforeAll(async () => {
  const pair = await generateKeyPair('RS256');
  key = pair.privateKey;
  const published = JSON.stringify({ keys: [{ ...(await exportJWK(pair.publicKey)), kid: 'k1', alg: 'RS256' }] });
  jwks = createServer((req, res) => {
    if (down) res.writeHead(500).end();
    else if (req.url?.endsWith('/.well-known/jwks.json')) res.end(published);
    else res.writeHead(404).end();
  });
  await new Promise<void>((resolve) => jwks.listen(0, '127.0.0.1', resolve));
  issuer = `http://127.0.0.1:${(jwks.address() as AddressInfo).port}/pool`;
  closed = `${issuer}-closed`;
  server = await startTestServer(
    {
      SWITCHYARD_ROLES: 'api',
      SWITCHYARD_JWT_ISSUERS: JSON.stringify([
        { issuer, clientIds: [client], provision: true },
        { issuer: closed, clientIds: [client] },
      ]),
    },
    { outside: { jwksCooldownMs: 0 } },
  );
  ada = await person(server.url);
});
afterAll(async () => {
  await server.stop();
  jwks.closeAllConnections();
  jwks.close();
});

const app = () => server.running.app;
const sign = (claims: object, expiresInS = 300): Promise<string> =>
  new SignJWT({ iss: issuer, ...claims })
    .setProtectedHeader({ alg: 'RS256', kid: 'k1' })
    .setIssuedAt()
    .setExpirationTime(Math.floor(Date.now() / 1000) + expiresInS)
    .sign(key);
const idToken = (sub: string, email: string, more: object = {}) =>
  sign({ sub, aud: client, token_use: 'id', email, email_verified: true, ...more });
const accessToken = (sub: string, more: object = {}) => sign({ sub, client_id: client, token_use: 'access', ...more });

const ask = (token: string) =>
  send<{ viewer: { id: string; email: string; name: string } | null; workspaces: { nodes: { id: string }[] } }>(
    server.url,
    '{ viewer { id email name } workspaces { nodes { id } } }',
    {},
    { token },
  );
const code = async (token: string) => {
  const { status, errors } = await ask(token);
  return [status, errors?.[0]?.extensions?.['code']];
};

describe('a token of a trusted issuer', () => {
  test('an ID token makes an account once; then access tokens of the subject are it, too', async () => {
    const sub = newId();
    const email = `${sub}@example.org`;
    expect(await code(await accessToken(sub))).toEqual([401, 'UNAUTHENTICATED']);
    const tokens = await Promise.all([1, 2, 3, 4].map(() => idToken(sub, email, { name: 'Grace' })));
    const answers = await Promise.all(tokens.map((token) => ask(token)));
    expect(answers.map(({ data: given }) => given?.viewer)).toEqual(
      Array.from({ length: 4 }, () => ({ id: expect.any(String), email, name: 'Grace' })),
    );
    expect(await app().db.user.count({ where: { email } })).toBe(1);
    const { data: by } = await ask(await accessToken(sub));
    expect(by?.viewer?.email).toBe(email);
    // It is a person: it may do what no key may.
    const { id } = await workspace(server.url, { token: await accessToken(sub) });
    const event = await app().db.event.findFirstOrThrow({ where: { workspaceId: rowId('Workspace', id) } });
    expect(event).toMatchObject({ actorKind: 'TOKEN', credentialId: null });
    // And has no session to renew.
    const refreshed = await data<{ refreshSession: { __typename: string } }>(
      server.url,
      'mutation { refreshSession { __typename } }',
      {},
      { token: await accessToken(sub) },
    );
    expect(refreshed.refreshSession.__typename).toBe('Forbidden');
  });

  test('links an account with the verified address, and takes over one whose address was never proved', async () => {
    const verified = await person(server.url);
    await app().db.user.update({ where: { email: verified.email }, data: { emailVerifiedAt: new Date() } });
    expect((await ask(await idToken(newId(), verified.email))).data?.viewer?.id).toBe(verified.id);
    expect((await ask(verified.token)).status).toBe(200);
    const stranger = await person(server.url);
    expect((await ask(await idToken(newId(), stranger.email))).data?.viewer?.id).toBe(stranger.id);
    expect(await code(stranger.token)).toEqual([401, 'UNAUTHENTICATED']);
  });

  test('who does not come in', async () => {
    const sub = newId();
    const email = `${sub}@example.org`;
    for (const token of [
      await idToken(sub, email, { email_verified: false }),
      await idToken(sub, email, { email_verified: undefined }),
      await idToken(sub, 'none'),
      await sign({ sub, aud: client, token_use: 'id' }),
      await idToken(sub, email, { aud: 'another client' }),
      await idToken(sub, email, { iss: `${issuer}/` }),
      // That one makes no accounts.
      await idToken(sub, email, { iss: closed }),
    ])
      expect(await code(token)).toEqual([401, 'UNAUTHENTICATED']);
    expect(await app().db.user.count({ where: { email } })).toBe(0);
    expect(await app().db.externalIdentity.count({ where: { subject: sub } })).toBe(0);
  });

  test('a subject is one of its issuer only', async () => {
    const sub = newId();
    await ask(await idToken(sub, `${sub}@example.org`));
    expect(await code(await accessToken(sub, { iss: closed }))).toEqual([401, 'UNAUTHENTICATED']);
  });

  test('ends with the account', async () => {
    const sub = newId();
    const email = `${sub}@example.org`;
    await ask(await idToken(sub, email));
    await app().db.user.update({ where: { email }, data: { closedAt: new Date() } });
    expect(await code(await accessToken(sub))).toEqual([401, 'UNAUTHENTICATED']);
    expect(await code(await idToken(sub, email))).toEqual([401, 'UNAUTHENTICATED']);
    expect(await code(await idToken(newId(), email))).toEqual([401, 'UNAUTHENTICATED']);
  });

  test('does not reach a workspace that enforces its own provider', async () => {
    const sub = newId();
    const { data: grace } = await ask(await idToken(sub, `${sub}@example.org`));
    const { id } = await workspace(server.url, ada);
    const workspaceId = rowId('Workspace', id);
    const userId = rowId('User', grace?.viewer?.id ?? '');
    await app().db.membership.create({ data: { id: newId(), workspaceId, userId, role: 'ADMIN' } });
    const reached = async () => (await ask(await accessToken(sub))).data?.workspaces.nodes;
    expect(await reached()).toEqual([{ id }]);
    await app().db.workspace.update({ where: { id: workspaceId }, data: { ssoEnforced: true } });
    expect(await reached()).toEqual([]);
  });

  test('its stream ends when it expires, and when the membership does', async () => {
    const sub = newId();
    const { data: grace } = await ask(await idToken(sub, `${sub}@example.org`));
    const { id } = await workspace(server.url, ada);
    const userId = rowId('User', grace?.viewer?.id ?? '');
    const member = await app().db.membership.create({
      data: { id: newId(), workspaceId: rowId('Workspace', id), userId, role: 'VIEWER' },
    });
    await memberOf(app(), { id: rowId('Workspace', id) }, 'VIEWER');
    const short = await sign({ sub, client_id: client, token_use: 'access' }, 3);
    const followers = [short, await accessToken(sub)].map(
      (token) => new Follower(server.url, { token }, 'workspaceEvents', { id }),
    );
    onTestFinished(async () => void (await Promise.all(followers.map((one) => one.close()))));
    await until('the streams have begun', async () => followers.every(({ items }) => items.length > 0));
    await until('it expired', async () => followers[0]?.closed?.code === 4403);
    expect(followers[1]?.closed).toBeNull();
    const { globalId } = await import('../../../src/kernel/graphql/global-id.ts');
    await data(
      server.url,
      'mutation ($input: RemoveMemberInput!) { removeMember(input: $input) { __typename } }',
      { input: { membershipId: globalId('Membership', member.id) } },
      ada,
    );
    await until('the membership ended', async () => followers[1]?.closed?.code === 4403);
  });
});

test('while the issuer cannot be asked: 503 with a time, and not a word that the token is bad', async () => {
  const other = await startTestServer({
    SWITCHYARD_ROLES: 'api',
    SWITCHYARD_JWT_ISSUERS: JSON.stringify([{ issuer, clientIds: [client], provision: true }]),
  });
  onTestFinished(() => other.stop());
  onTestFinished(() => void (down = false));
  const token = await idToken(newId(), `${newId()}@example.org`);
  down = true;
  const answer = await send(other.url, '{ viewer { id } }', {}, { token });
  expect([answer.status, answer.errors?.[0]?.extensions?.['code'], answer.headers.get('retry-after')]).toEqual([
    503,
    'ISSUER_UNAVAILABLE',
    '10',
  ]);
  const follower = new Follower(other.url, { token }, 'workspaceEvents', { id: newId() });
  onTestFinished(() => follower.close());
  await until('the socket was closed', async () => follower.closed !== null);
  expect(follower.closed?.code).not.toBe(4403);
});
