import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { crc32 } from 'node:zlib';
import { isApiKey, newApiKey, sha256Hex } from '#kernel/crypto.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { apiKey, member, person, workspace, type Person } from '../../support/actors.ts';
import { data, send, type Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { Follower } from '../../support/live.ts';
import { mutate as mutateAt } from '../../support/mutate.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

let server: TestServer;
let ada: Person;
let home: { id: string };
beforeAll(async () => {
  server = await startTestServer();
  ada = await person(server.url);
  home = await workspace(server.url, ada);
});
afterAll(() => server.stop());

const db = () => server.running.app.db;
const mutate = (verb: string, input: object, auth?: Auth, fields?: string) =>
  mutateAt(server.url, verb, input, auth, fields);
const fields = 'key apiKey { id name role scopes prefix expiresAt revokedAt createdBy { id } }';
const make = (input: object, auth: Auth = ada, workspaceId = home.id) =>
  mutate('createApiKey', { workspaceId, name: 'test', role: 'ADMIN', ...input }, auth, fields);
/** A key that must be made. */
async function key(input: object, auth?: Auth): Promise<{ id: string; apiKey: string }> {
  const made = await make(input, auth);
  if (made.__typename !== 'CreateApiKeySuccess') throw new Error(`${made.__typename}: ${made.message}`);
  return { id: made['apiKey'].id, apiKey: made['key'] };
}
/** Code of the refusal of a credential; undefined when it is good. */
const refused = async (auth: Auth) =>
  (await send(server.url, '{ viewer { id } }', {}, auth)).errors?.[0]?.extensions?.['code'];
const createApplication = (auth: Auth) =>
  mutate(
    'createApplication',
    { workspaceId: home.id, name: `app-${newId()}`, repositoryUrl: 'https://example.com/a.git' },
    auth,
  );
const inAnHour = () => new Date(Date.now() + 3_600_000).toISOString();

describe('the text of a key', () => {
  test('has a checksum, by which garbage is refused without a look-up; older keys have none', async () => {
    const { key: text, prefix } = newApiKey();
    expect(text).toMatch(/^sy_[\w-]{43}[0-9A-Za-z]{6}$/);
    expect(text.startsWith(prefix)).toBe(true);
    // As anybody can compute it: CRC-32 in base62, digits first.
    const digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
    const sum = Array.from(text.slice(-6)).reduce((value, digit) => value * 62 + digits.indexOf(digit), 0);
    expect(sum).toBe(crc32(text.slice(0, -6)));
    expect(isApiKey(text)).toBe(true);
    expect(isApiKey(text.slice(0, 46))).toBe(true);
    for (let at = 3; at < text.length; at++) {
      const other = text[at] === 'a' ? 'b' : 'a';
      expect(isApiKey(text.slice(0, at) + other + text.slice(at + 1))).toBe(false);
    }
    for (const bad of ['', 'sy_', 'sy_unknown', `${text}x`, ` ${text}`, text.toUpperCase(), text.slice(1)])
      expect(isApiKey(bad)).toBe(false);
  });

  test('a key of before, without a checksum, is good', async () => {
    const old = newApiKey().key.slice(0, 46);
    const workspaceId = rowId('Workspace', home.id);
    const createdById = rowId('User', ada.id);
    await db().apiKey.create({
      data: {
        id: newId(),
        workspaceId,
        createdById,
        name: 'old',
        prefix: old.slice(0, 11),
        keyHash: sha256Hex(old),
        role: 'VIEWER',
      },
    });
    expect(await refused({ apiKey: old })).toBeUndefined();
    expect(await refused({ token: old })).toBeUndefined();
    expect(await refused({ apiKey: newApiKey().key })).toBe('UNAUTHENTICATED');
    expect(await refused({ apiKey: 'sy_unknown' })).toBe('UNAUTHENTICATED');
  });
});

describe('scopes', () => {
  test('are verbs that roles have; unknown ones and those of people are refused', async () => {
    const made = await make({
      scopes: ['deployments.createDeployment', 'identity.inviteMember', 'identity.inviteMember'],
    });
    expect(made['apiKey'].scopes).toEqual(['deployments.createDeployment', 'identity.inviteMember']);
    expect((await make({})).apiKey.scopes).toEqual(['*']);
    expect((await make({ scopes: ['*', 'identity.inviteMember'] })).apiKey.scopes).toEqual(['*']);
    for (const scope of [
      '',
      'x',
      'identity.nothing',
      'createDeployment',
      'identity.createWorkspace',
      'identity.signIn',
      'IDENTITY.inviteMember',
    ])
      // prettier-ignore
      expect(await make({ scopes: [scope] })).toMatchObject({
        __typename: 'ValidationError',
        issues: [{ path: 'scopes' }],
      });
  });

  test('a key with some uses those, within its role; one with none reads', async () => {
    const some = await key({ scopes: ['deployments.createApplication'] });
    expect((await createApplication(some)).__typename).toBe('CreateApplicationSuccess');
    expect(await mutate('updateApiKey', { id: some.id, name: 'x' }, some)).toMatchObject({ __typename: 'Forbidden' });
    const low = await key({ role: 'VIEWER', scopes: ['deployments.createApplication'] });
    expect((await createApplication(low)).__typename).toBe('Forbidden');
    const none = await key({ scopes: [] });
    expect((await createApplication(none)).__typename).toBe('Forbidden');
    const { workspaces } = await data<{ workspaces: { totalCount: number } }>(
      server.url,
      '{ workspaces { totalCount } }',
      {},
      none,
    );
    expect(workspaces.totalCount).toBe(1);
  });

  test('a key gives no verb that it lacks, and no later end than its own', async () => {
    const expiresAt = inAnHour();
    const maker = await key({ scopes: ['identity.createApiKey', 'deployments.createDeployment'], expiresAt });
    expect(await make({ expiresAt }, maker)).toMatchObject({ __typename: 'Forbidden', verb: 'identity.giveAllScopes' });
    expect(await make({ expiresAt, scopes: ['identity.inviteMember'] }, maker)).toMatchObject({
      __typename: 'Forbidden',
      verb: 'identity.inviteMember',
    });
    const later = new Date(Date.parse(expiresAt) + 1000).toISOString();
    for (const end of [later, null, undefined])
      expect(await make({ scopes: [], ...(end === undefined ? {} : { expiresAt: end }) }, maker)).toMatchObject({
        __typename: 'Forbidden',
        verb: 'identity.giveLaterEnd',
      });
    const made = await make({ expiresAt, scopes: ['deployments.createDeployment'] }, maker);
    expect(made).toMatchObject({ __typename: 'CreateApiKeySuccess', apiKey: { createdBy: { id: ada.id } } });
    expect((await make({ role: 'OWNER', expiresAt, scopes: [] }, maker)).__typename).toBe('Forbidden');
    // Nor by rotation of another one that has more.
    const wide = await key({});
    const rotator = await key({ scopes: ['identity.rotateApiKey'] });
    expect((await mutate('rotateApiKey', { id: wide.id }, rotator)).__typename).toBe('Forbidden');
    expect(await refused(wide)).toBeUndefined();
  });
});

describe('the end of a key', () => {
  test('takes those along that were made with it', async () => {
    const first = await key({});
    const second = await key({}, first);
    const third = await key({}, second);
    const other = await key({});
    await mutate('revokeApiKey', { id: first.id }, ada);
    expect(await Promise.all([first, second, third, other].map(refused))).toEqual([
      'UNAUTHENTICATED',
      'UNAUTHENTICATED',
      'UNAUTHENTICATED',
      undefined,
    ]);
  });

  test('one whose role is above one’s own is not to be revoked, renamed or rotated', async () => {
    const admin = await member(server.url, ada, home.id, 'ADMIN');
    const owners = await key({ role: 'OWNER' });
    for (const [verb, input] of [
      ['revokeApiKey', {}],
      ['rotateApiKey', {}],
      ['updateApiKey', { name: 'mine' }],
    ] as const)
      expect(await mutate(verb, { id: owners.id, ...input }, admin)).toMatchObject({
        __typename: 'Forbidden',
        verb: 'identity.giveOWNER',
      });
    expect(await refused(owners)).toBeUndefined();
    const others = await key({ role: 'ADMIN' });
    expect((await mutate('revokeApiKey', { id: others.id }, admin)).__typename).toBe('RevokeApiKeySuccess');
  });

  test('a key of another workspace does not exist', async () => {
    const eve = await person(server.url, 'Eve');
    const hers = await workspace(server.url, eve);
    const foreign = await apiKey(server.url, eve, hers.id, 'VIEWER');
    for (const auth of [ada, await key({ role: 'OWNER' })])
      for (const [verb, input] of [
        ['revokeApiKey', {}],
        ['rotateApiKey', {}],
        ['updateApiKey', { name: 'mine' }],
      ] as const)
        expect((await mutate(verb, { id: foreign.id, ...input }, auth)).__typename).toBe('NotFound');
    expect(await refused(foreign)).toBeUndefined();
    expect((await mutate('revokeApiKey', { id: globalId('ApiKey', newId()) }, ada)).__typename).toBe('NotFound');
  });

  test('is not to be changed; its name is', async () => {
    const one = await key({ scopes: [], expiresAt: inAnHour() });
    const renamed = await mutate('updateApiKey', { id: one.id, name: ' new ' }, ada, 'apiKey { name scopes role }');
    expect(renamed).toMatchObject({ apiKey: { name: 'new', scopes: [], role: 'ADMIN' } });
    expect(await mutate('updateApiKey', { id: one.id, name: ' ' }, ada)).toMatchObject({
      __typename: 'ValidationError',
      issues: [{ path: 'name' }],
    });
  });
});

describe('rotation', () => {
  const rotated = `key apiKey { id name role scopes expiresAt createdBy { id } } previous { id revokedAt expiresAt }`;
  const rotate = (id: string, auth: Auth, input: object = {}) =>
    mutate('rotateApiKey', { id, ...input }, auth, rotated);

  test('gives the same rights to a new secret; the old one is over at once', async () => {
    const expiresAt = inAnHour();
    const old = await key({ name: 'ci', scopes: ['identity.createApiKey'], expiresAt });
    const made = await rotate(old.id, ada);
    expect(made).toMatchObject({
      __typename: 'RotateApiKeySuccess',
      apiKey: { name: 'ci', role: 'ADMIN', scopes: ['identity.createApiKey'], expiresAt },
      previous: { id: old.id, revokedAt: expect.any(String) },
    });
    expect([await refused(old), await refused({ apiKey: made['key'] })]).toEqual(['UNAUTHENTICATED', undefined]);
    expect((await rotate(old.id, ada)).__typename).toBe('Conflict');
  });

  test('the one that another member asks for acts for them, not for its first maker', async () => {
    const bob = await member(server.url, ada, home.id, 'ADMIN');
    const old = await key({ role: 'VIEWER' });
    const made = await rotate(old.id, bob);
    expect(made['apiKey'].createdBy.id).toBe(bob.id);
  });

  test('a key rotates itself, and what it made goes on', async () => {
    const first = await key({ scopes: ['identity.rotateApiKey', 'identity.createApiKey'] });
    const child = await key({ scopes: [] }, first);
    const made = await rotate(first.id, first);
    expect(made.__typename).toBe('RotateApiKeySuccess');
    const second = { apiKey: made['key'] as string };
    expect(await Promise.all([first, second, child].map(refused))).toEqual(['UNAUTHENTICATED', undefined, undefined]);
    await mutate('revokeApiKey', { id: made['apiKey'].id }, ada);
    expect(await Promise.all([second, child].map(refused))).toEqual(['UNAUTHENTICATED', 'UNAUTHENTICATED']);
  });

  test('a key that takes the place of the one that it comes of ends with it all the same', async () => {
    const first = await key({});
    const child = await key({}, first);
    const grandchild = await key({}, child);
    const rotated = await mutate('rotateApiKey', { id: first.id, graceS: 3600 }, grandchild, fields);
    expect(rotated.__typename).toBe('RotateApiKeySuccess');
    const second = { apiKey: rotated['key'] };
    expect((await mutate('revokeApiKey', { id: first.id }, ada)).__typename).toBe('RevokeApiKeySuccess');
    expect(await Promise.all([first, child, grandchild, second].map(refused))).toEqual(
      Array.from({ length: 4 }, () => 'UNAUTHENTICATED'),
    );
  });

  test.each([-1, 86_401, 1e9])('a grace of %d seconds is refused', async (graceS) => {
    const old = await key({});
    expect(await rotate(old.id, ada, { graceS })).toMatchObject({
      __typename: 'ValidationError',
      issues: [{ path: 'graceS' }],
    });
    expect(await refused(old)).toBeUndefined();
  });

  test('with a grace the old one is good for so long, and its open streams end with it', async () => {
    const old = await key({ role: 'VIEWER' });
    const follower = new Follower(server.url, old, 'workspaceEvents', { id: home.id, after: null });
    try {
      await until('the stream has begun', async () => follower.items.length > 0);
      const made = await rotate(old.id, ada, { graceS: 3 });
      expect(made['previous']).toMatchObject({ revokedAt: null, expiresAt: expect.any(String) });
      expect([await refused(old), await refused({ apiKey: made['key'] })]).toEqual([undefined, undefined]);
      await until('the stream ended', async () => follower.closed !== null, 20_000);
      expect(follower.closed?.code).toBe(4403);
      expect(Date.now()).toBeGreaterThanOrEqual(Date.parse(made['previous'].expiresAt));
      expect([await refused(old), await refused({ apiKey: made['key'] })]).toEqual(['UNAUTHENTICATED', undefined]);
    } finally {
      await follower.close();
    }
  });
});
