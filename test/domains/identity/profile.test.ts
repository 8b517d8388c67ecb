import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { member, workspace } from '../../support/actors.ts';
import { data } from '../../support/client.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { account, ask, mutate } from './support.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ SWITCHYARD_ROLES: 'api' });
});
afterAll(() => server.stop());

const update = (input: object, auth = {}) =>
  mutate(server, 'updateProfile', input, auth, 'user { name profile { locale timeZone } }');
const viewer = async (auth: object) =>
  (await data<{ viewer: object }>(server.url, `{ viewer { name profile { locale timeZone } } }`, {}, auth)).viewer;

describe('the profile', () => {
  test('changes what is given, and keeps the rest; null removes', async () => {
    const ada = await account(server);
    expect(await viewer(ada)).toEqual({ name: 'Ada', profile: { locale: null, timeZone: null } });
    expect(await update({ locale: 'de-at', timeZone: 'europe/vienna' }, ada)).toMatchObject({
      user: { name: 'Ada', profile: { locale: 'de-AT', timeZone: 'Europe/Vienna' } },
    });
    expect(await update({ name: ' Ada L. ' }, ada)).toMatchObject({
      user: { name: 'Ada L.', profile: { locale: 'de-AT', timeZone: 'Europe/Vienna' } },
    });
    await update({ locale: null }, ada);
    expect(await viewer(ada)).toEqual({ name: 'Ada L.', profile: { locale: null, timeZone: 'Europe/Vienna' } });
    expect((await update({}, ada)).__typename).toBe('UpdateProfileSuccess');
  });

  test.each([
    [{ locale: 'german please' }, 'locale'],
    [{ locale: 'de_AT' }, 'locale'],
    [{ locale: '' }, 'locale'],
    [{ timeZone: 'Mars/Olympus' }, 'timeZone'],
    [{ timeZone: '+01:00' }, 'timeZone'],
    [{ timeZone: 'x'.repeat(1000) }, 'timeZone'],
    [{ name: '' }, 'name'],
    [{ name: null }, 'name'],
    [{ name: 'x'.repeat(121) }, 'name'],
  ])('refuses %j', async (input, path) => {
    const ada = await account(server);
    expect(await update(input, ada)).toMatchObject({ __typename: 'ValidationError', issues: [{ path }] });
    expect(await viewer(ada)).toMatchObject({ name: 'Ada' });
  });

  test('nothing else can be set by it', async () => {
    const ada = await account(server);
    for (const extra of [{ emailVerifiedAt: '2020-01-01T00:00:00Z' }, { userId: 'x' }, { passwordHash: 'x' }]) {
      const answer = await ask(server, 'updateProfile', { name: 'Eve', ...extra }, ada);
      expect(answer.errors?.[0]?.message).toMatch(/not defined by type/);
    }
    expect(await viewer(ada)).toMatchObject({ name: 'Ada' });
  });

  test('is for its person only, whoever shares a workspace with them', async () => {
    const ada = await account(server);
    const home = await workspace(server.url, ada);
    const bob = await member(server.url, ada, home.id, 'ADMIN');
    await update({ locale: 'de-AT' }, ada);
    const asked = `query ($id: ID!) { node(id: $id) { ... on User {
      name emailVerified profile { locale } state { version } sessions { id } } } }`;
    const alone = { emailVerified: null, profile: null, state: null, sessions: null };
    expect(await data(server.url, asked, { id: ada.id }, bob)).toEqual({ node: { name: 'Ada', ...alone } });
    expect(await data(server.url, asked, { id: ada.id }, ada)).toMatchObject({
      node: { profile: { locale: 'de-AT' } },
    });
  });
});
