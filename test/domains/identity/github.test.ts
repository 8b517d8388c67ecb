import '../../support/probe.ts';
import { createEmulator, type Emulator } from 'emulate';
import { createServer } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sessionCookie } from '#kernel/auth/actors.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { newId } from '#kernel/ids.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { person, type Person } from '../../support/actors.ts';
import { Browser } from '../../support/browser.ts';
import { data } from '../../support/client.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { External } from '../../../src/domains/identity/index.ts';
import { mailsTo, mutate, password } from './support.ts';

let github: Emulator;
let server: TestServer;
let base: string;

const freePort = () =>
  new Promise<number>((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' ? (address?.port ?? 0) : 0));
    });
  });

beforeAll(async () => {
  const port = await freePort();
  base = `http://127.0.0.1:${port}`;
  github = await createEmulator({
    service: 'github',
    port: await freePort(),
    seed: {
      github: {
        users: ['grace', 'victim', 'linker', 'thief', 'twins'].map((login) => ({
          login,
          name: login,
          email: `${login}@github.example`,
        })),
        oauth_apps: [
          {
            client_id: 'client',
            client_secret: 'the client secret',
            name: 'Switchyard',
            redirect_uris: [`${base}/auth/github/callback`],
          },
        ],
      },
    },
  });
  server = await startTestServer({
    SWITCHYARD_ROLES: 'api',
    PORT: String(port),
    GITHUB_CLIENT_ID: 'client',
    GITHUB_CLIENT_SECRET: 'the client secret',
    GITHUB_URL: github.url,
    GITHUB_API_URL: github.url,
  });
});
afterAll(async () => {
  await server.stop();
  await github.close();
});

const app = () => server.running.app;

/** As far as the address that GitHub sends the browser back to. */
async function toCallback(browser: Browser, login: string, path = '/auth/github?returnTo=/done', headers = {}) {
  const begun = await browser.get(`${base}${path}`, { headers });
  const page = new URL(begun.location ?? '');
  const sent = page.searchParams;
  const form = new URLSearchParams({
    login,
    redirect_uri: sent.get('redirect_uri') ?? '',
    scope: sent.get('scope') ?? '',
    state: sent.get('state') ?? '',
    client_id: sent.get('client_id') ?? '',
  });
  const back = await browser.get(`${github.url}/login/oauth/callback`, { method: 'POST', body: form });
  return { sent, callback: back.location ?? '' };
}

async function signIn(login: string, browser = new Browser()) {
  const { callback } = await toCallback(browser, login);
  const answer = await browser.get(callback);
  return { browser, answer, token: browser.cookies(base)[sessionCookie] ?? '' };
}

const me = async (token: string) =>
  (
    await data<{
      viewer: { id: string; email: string; identities: { id: string; provider: string; scopes: string[] }[] };
    }>(server.url, '{ viewer { id email identities { id provider subject scopes } } }', {}, { token })
  ).viewer;

const unlink = async (id: string, token: string, given: string | null = password) =>
  (await mutate(server, 'unlinkIdentity', { id, password: given }, { token })).__typename;

const begin = (token: string, given: string | null = password) =>
  mutate(server, 'beginIdentityLink', { provider: 'GITHUB', password: given }, { token }, 'url');

/** Where somebody who proved who they are begins to link, as a path. */
async function linkOf(token: string, given: string | null = password): Promise<string> {
  const said = await begin(token, given);
  expect(said.__typename).toBe('BeginIdentityLinkSuccess');
  const url = String(said['url']);
  expect(url.startsWith(`${base}/auth/github?link=`)).toBe(true);
  return `${url.slice(base.length)}&returnTo=/settings`;
}

const mailed = async (email: string, subject: RegExp) =>
  (await mailsTo(server, email)).filter((one) => subject.test(one.subject));

const refusedWith = (answer: { location: string | null; text: string }): string | null =>
  answer.location === null
    ? (JSON.parse(answer.text) as { code: string }).code
    : new URL(answer.location).searchParams.get('error');

/** A browser in which somebody is signed in. */
function browserOf(somebody: Person): Browser {
  const browser = new Browser();
  browser.set(base, sessionCookie, somebody.token);
  return browser;
}

describe('signing in with GitHub', () => {
  test('makes an account of the verified primary address, and keeps the token sealed, with its scopes', async () => {
    const browser = new Browser();
    const { sent, callback } = await toCallback(browser, 'grace');
    expect(Object.fromEntries(sent)).toMatchObject({ code_challenge_method: 'S256', scope: 'read:user user:email' });
    expect((await browser.get(callback)).location).toBe(`${base}/done`);
    const token = browser.cookies(base)[sessionCookie] ?? '';
    const viewer = await me(token);
    expect(viewer).toMatchObject({
      email: 'grace@github.example',
      identities: [{ provider: 'github', scopes: ['read:user', 'user:email'] }],
    });
    const row = await app().db.externalIdentity.findUniqueOrThrow({
      where: { id: rowId('ExternalIdentity', viewer.identities[0]?.id ?? '') },
    });
    expect(row.subject).toMatch(/^\d+$/);
    expect(row.token).toMatch(/^v1\./);
    const opened = await app()
      .use(Sealing)
      .openText(row.token ?? '', `external_identity.token:${row.id}`);
    expect(opened).toMatch(/^gho_/);
    expect(await app().db.session.findFirst({ where: { userId: row.userId } })).toMatchObject({ method: 'GITHUB' });
    // Again: the same person, and the newer token.
    expect((await me((await signIn('grace')).token)).id).toBe(viewer.id);
    expect((await app().db.externalIdentity.findUniqueOrThrow({ where: { id: row.id } })).token).not.toBe(row.token);
  });

  test('takes an account back that a stranger made with the address', async () => {
    const made = await data<{ signUp: { token: string; user: { id: string } } }>(
      server.url,
      'mutation ($input: SignUpInput!) { signUp(input: $input) { ... on SignUpSuccess { token user { id } } } }',
      { input: { email: 'victim@github.example', password: 'a password of the stranger', name: 'Stranger' } },
    );
    const { token } = await signIn('victim');
    expect((await me(token)).id).toBe(made.signUp.user.id);
    await expect(me(made.signUp.token)).rejects.toThrow('UNAUTHENTICATED');
  });

  test('two at once make one account', async () => {
    const browsers = [new Browser(), new Browser(), new Browser()];
    const back = await Promise.all(browsers.map((browser) => toCallback(browser, 'twins')));
    const answers = await Promise.all(browsers.map((browser, i) => browser.get(back[i]?.callback ?? '')));
    expect(answers.map(({ location }) => location)).toEqual(Array(3).fill(`${base}/done`));
    expect(await app().db.user.count({ where: { email: 'twins@github.example' } })).toBe(1);
  });

  test('the way back is good once, in the browser that began, with its state', async () => {
    const browser = new Browser();
    const { callback } = await toCallback(browser, 'thief');
    const kept = browser.cookies(callback)['switchyard_sign_in'] ?? '';
    expect(refusedWith(await new Browser().get(callback))).toBe('SIGN_IN_INVALID');
    const other = new URL(callback);
    other.searchParams.set('state', 'x'.repeat(43));
    const wrong = new Browser();
    wrong.set(base, 'switchyard_sign_in', kept);
    expect(refusedWith(await wrong.get(other.href))).toBe('SIGN_IN_INVALID');
    expect((await browser.get(callback)).location).toBe(`${base}/done`);
    const again = new Browser();
    again.set(base, 'switchyard_sign_in', kept);
    expect(refusedWith(await again.get(callback))).toBe('SIGN_IN_USED');
  });

  test.each([
    ['code', 'x', 'PROVIDER_REFUSED'],
    ['error', 'access_denied', 'ACCESS_DENIED'],
    ['error', 'redirect_uri_mismatch', 'PROVIDER_REFUSED'],
  ])('with %s=%s', async (name, value, code) => {
    const browser = new Browser();
    const { callback } = await toCallback(browser, 'grace');
    const url = new URL(callback);
    url.searchParams.set(name, value);
    expect(refusedWith(await browser.get(url.href))).toBe(code);
  });
});

test('another site’s page does not send somebody to GitHub before they said so, nor into another account', async () => {
  const browser = new Browser();
  const asked = await browser.get(`${base}/auth/github?returnTo=/done`, {
    headers: { 'sec-fetch-site': 'cross-site' },
  });
  expect([asked.status, asked.location]).toEqual([200, null]);
  expect(asked.text).toContain('<bdi>GitHub</bdi>');
  expect(asked.text).toContain('href="/auth/github?returnTo=%2Fdone"');
  const ada = await person(server.url);
  const her = browserOf(ada);
  const { callback } = await toCallback(her, 'grace');
  expect(refusedWith(await her.get(callback))).toBe('SIGNED_IN_AS_ANOTHER');
  expect(her.cookies(base)[sessionCookie]).toBe(ada.token);
});

describe('linking GitHub to an account', () => {
  test('by somebody who is signed in and has proved who they are, who is told by mail', async () => {
    const ada = await person(server.url);
    const browser = browserOf(ada);
    const { callback } = await toCallback(browser, 'linker', await linkOf(ada.token), {
      'sec-fetch-site': 'cross-site',
    });
    const answer = await browser.get(callback, { headers: { 'sec-fetch-site': 'cross-site' } });
    expect(answer.location).toBe(`${base}/settings`);
    // The session is the one that was there.
    expect(browser.cookies(base)[sessionCookie]).toBe(ada.token);
    const { identities } = await me(ada.token);
    expect(identities).toMatchObject([{ provider: 'github' }]);
    expect((await me((await signIn('linker')).token)).id).toBe(ada.id);
    expect((await mailed(ada.email, /Another way to sign in/))[0]?.text).toContain('at GitHub');

    const bob = await person(server.url);
    const his = browserOf(bob);
    const second = await toCallback(his, 'linker', await linkOf(bob.token));
    expect(refusedWith(await his.get(second.callback))).toBe('IDENTITY_TAKEN');
    expect(await unlink(identities[0]?.id ?? '', bob.token)).toBe('NotFound');
    expect(await mailed(bob.email, /way to sign in/)).toEqual([]);
    for (const given of [null, 'a wrong password'])
      expect(await unlink(identities[0]?.id ?? '', ada.token, given)).toBe('ReauthenticationRequired');
    expect((await me(ada.token)).identities).toHaveLength(1);
    expect(await unlink(identities[0]?.id ?? '', ada.token)).toBe('UnlinkIdentitySuccess');
    expect((await me(ada.token)).identities).toEqual([]);
    expect((await mailed(ada.email, /was removed/))[0]?.text).toContain('by GitHub');
  });

  test('a session alone adds no way in', async () => {
    const ada = await person(server.url);
    for (const given of [null, 'a wrong password'])
      expect(await begin(ada.token, given)).toMatchObject({ code: 'REAUTHENTICATION_REQUIRED', proof: 'PASSWORD' });
    for (const link of ['1', '', 'v1.x.y.z.w', 'x'.repeat(9000)])
      for (const headers of [{ 'sec-fetch-site': 'same-origin' }, { origin: base }])
        expect(
          refusedWith(await browserOf(ada).get(`${base}/auth/github?link=${link}&returnTo=/settings`, { headers })),
        ).toBe('LINK_NEEDS_SESSION');
    // Nor what was sealed for something else.
    const kept = await new Browser().get(`${base}/auth/github`);
    const [, sealed = ''] = /switchyard_sign_in=([^;]+)/.exec(kept.headers.get('set-cookie') ?? '') ?? [];
    expect(refusedWith(await browserOf(ada).get(`${base}/auth/github?link=${sealed}`))).toBe('LINK_NEEDS_SESSION');
    expect((await me(ada.token)).identities).toEqual([]);
  });

  test('people without a password must have signed in a short while ago', async () => {
    const { token } = await signIn('grace');
    const { id } = await me(token);
    await linkOf(token, null);
    await app().db.session.updateMany({
      where: { userId: rowId('User', id) },
      data: { signedInAt: new Date(Date.now() - 601_000) },
    });
    expect(await begin(token)).toMatchObject({ code: 'REAUTHENTICATION_REQUIRED', proof: 'SIGN_IN' });
  });

  test('the address is good once, for five minutes, and in the session that asked for it', async () => {
    const ada = await person(server.url);
    const link = `${base}${await linkOf(ada.token)}`;
    expect(refusedWith(await new Browser().get(link))).toBe('LINK_NEEDS_SESSION');
    expect(refusedWith(await browserOf(await person(server.url)).get(link))).toBe('LINK_NEEDS_SESSION');
    // Another session of the same person.
    const again = await mutate(server, 'signIn', { email: ada.email, password }, {}, 'token');
    const second = browserOf({ ...ada, token: String(again['token']) });
    expect(refusedWith(await second.get(link))).toBe('LINK_NEEDS_SESSION');
    expect((await browserOf(ada).get(link)).location).toMatch(github.url);
    expect(refusedWith(await browserOf(ada).get(link))).toBe('SIGN_IN_USED');

    const context = 'link of another identity';
    const sealed = new URL(`${base}${await linkOf(ada.token)}`).searchParams.get('link') ?? '';
    const plain = JSON.parse(await app().use(Sealing).openText(sealed, context)) as { expiresAt: number };
    expect(plain.expiresAt - Date.now()).toBeGreaterThan(290_000);
    expect(plain.expiresAt - Date.now()).toBeLessThanOrEqual(300_000);
    const old = await app()
      .use(Sealing)
      .seal(JSON.stringify({ ...plain, expiresAt: Date.now() - 1 }), context);
    expect(refusedWith(await browserOf(ada).get(`${base}/auth/github?link=${old}`))).toBe('SIGN_IN_EXPIRED');
  });

  test('not with another session at the end, nor with one that has ended', async () => {
    const ada = await person(server.url);
    const browser = browserOf(ada);
    const { callback } = await toCallback(browser, 'linker', await linkOf(ada.token));
    browser.set(base, sessionCookie, (await person(server.url)).token);
    expect(refusedWith(await browser.get(callback))).toBe('LINK_NEEDS_SESSION');
    const other = browserOf(ada);
    const second = await toCallback(other, 'linker', await linkOf(ada.token));
    await app().db.session.updateMany({ where: { userId: rowId('User', ada.id) }, data: { endedAt: new Date() } });
    expect(refusedWith(await other.get(second.callback))).toBe('LINK_NEEDS_SESSION');
  });

  test('nor when the session ends while GitHub is asked', async () => {
    const ada = await person(server.url);
    const actor = await app().actors.authenticate({ session: ada.token }, null);
    await app().db.session.updateMany({ where: { userId: rowId('User', ada.id) }, data: { endedAt: new Date() } });
    const vouched = { provider: 'github', subject: newId(), email: null, emailVerified: false, name: null };
    await expect(app().use(External).link(actor, rowId('User', ada.id), vouched)).rejects.toMatchObject({
      code: 'LINK_NEEDS_SESSION',
    });
    expect(await app().db.externalIdentity.count({ where: { subject: vouched.subject } })).toBe(0);
  });

  test('the last way in stays', async () => {
    const { token } = await signIn('grace');
    const viewer = await me(token);
    expect(await unlink(viewer.identities[0]?.id ?? '', token, null)).toBe('LastWayIn');
    await app().db.externalIdentity.create({
      data: { id: newId(), userId: rowId('User', viewer.id), provider: 'jwt:https://x.example', subject: newId() },
    });
    expect(await unlink(viewer.identities[0]?.id ?? '', token, null)).toBe('UnlinkIdentitySuccess');
  });
});
