import '../../support/probe.ts';
import { createSocket } from 'node:dgram';
import { Client } from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { newId } from '#kernel/ids.ts';
import { Denials } from '#kernel/audit/denials.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { sessionCookie } from '#kernel/auth/actors.ts';
import { systemTxt } from '../../../src/domains/identity/service/outside.ts';
import { safeReturn } from '../../../src/domains/identity/service/sign-in.ts';
import { person, workspace, apiKey, mailsTo, type Person } from '../../support/actors.ts';
import { Browser } from '../../support/browser.ts';
import { data, send, type Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { Follower } from '../../support/live.ts';
import { clientId, clientSecret, startProvider, type TestProvider } from '../../support/oidc.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { memberOf, someone } from '../../support/world.ts';

const txt = new Map<string, string[]>();
let server: TestServer;
let base: string;
let provider: TestProvider;
let other: TestProvider;
let ada: Person;

const app = () => server.running.app;
const unique = () => newId().slice(-12);

beforeAll(async () => {
  server = await startTestServer(
    { SWITCHYARD_ROLES: 'api', CORS_ORIGINS: 'https://app.example.com' },
    {
      outside: {
        resolveTxt: async (name) => txt.get(name) ?? Promise.reject(new Error('ENOTFOUND')),
        discoveryCacheMs: 0,
      },
    },
  );
  base = server.url.replace('/graphql', '');
  provider = await startProvider();
  other = await startProvider();
  ada = await person(server.url);
});
afterAll(async () => {
  await provider.close();
  await other.close();
  await server.stop();
});
beforeEach(() => {
  provider.intercept = null;
});

interface Answer {
  readonly __typename: string;
  readonly message?: string;
  readonly reason?: string;
  readonly record?: string;
  readonly ssoConnection?: { readonly id: string; readonly signInPath: string; readonly redirectUri: string };
  readonly ssoDomain?: { readonly id: string; readonly record: string; readonly challenge: string };
}

async function mutate(name: string, input: object, auth: Auth, selection = ''): Promise<Answer> {
  const type = `${name.charAt(0).toUpperCase()}${name.slice(1)}`;
  const { answer } = await data<{ answer: Answer }>(
    server.url,
    `mutation ($input: ${type}Input!) { answer: ${name}(input: $input) { __typename ... on Error { message } ${selection} } }`,
    { input },
    auth,
  );
  return answer;
}
const connectionFields =
  '... on CreateSsoConnectionSuccess { ssoConnection { id signInPath redirectUri } } ... on SsoMisconfigured { reason }';
const domainFields = '... on AddSsoDomainSuccess { ssoDomain { id record challenge } }';

interface Company {
  readonly id: string;
  readonly domain: string;
  readonly connectionId: string;
  readonly start: string;
  /** Where its provider sends browsers back to. */
  readonly callback: string;
}

/** A workspace of Ada's with a provider and a verified domain. */
async function company(
  options: { provisionRole?: string | null; trustEmail?: boolean; at?: TestProvider } = {},
): Promise<Company> {
  const { id } = await workspace(server.url, ada);
  const domain = `${unique()}.example`;
  const { provisionRole = 'MEMBER', trustEmail = false, at = provider } = options;
  const made = await mutate(
    'createSsoConnection',
    { workspaceId: id, name: 'Company', issuer: at.issuer, clientId, clientSecret, provisionRole, trustEmail },
    ada,
    connectionFields,
  );
  expect(made).toMatchObject({ __typename: 'CreateSsoConnectionSuccess' });
  await verified(id, domain);
  const connectionId = made.ssoConnection?.id ?? '';
  const callback = made.ssoConnection?.redirectUri ?? '';
  expect(callback).toBe(`${base}/auth/sso/${rowId('SsoConnection', connectionId)}/callback`);
  at.redirectUris.add(callback);
  return { id, domain, connectionId, start: `${base}${made.ssoConnection?.signInPath}?returnTo=/done`, callback };
}

async function verified(workspaceId: string, domain: string, by: Auth = ada): Promise<Answer> {
  const added = await mutate('addSsoDomain', { workspaceId, domain }, by, domainFields);
  const { record = '', challenge = '', id = '' } = added.ssoDomain ?? {};
  txt.set(record, [...(txt.get(record) ?? ['something else']), challenge]);
  const answer = await mutate('verifySsoDomain', { id }, by, '... on DomainNotVerified { record }');
  expect(answer.__typename).toBe('VerifySsoDomainSuccess');
  return added;
}

const viewer = async (token: string) =>
  await data<{
    viewer: { id: string; email: string; identities: { provider: string }[] };
    workspaces: { nodes: { id: string; viewerRole: string }[] };
  }>(
    server.url,
    '{ viewer { id email identities { provider } } workspaces { nodes { id viewerRole } } }',
    {},
    { token },
  );

/** Signs in as the provider's account, in a browser of its own unless one is given. */
async function signIn(of: Company, account: TestProvider['account'], browser = new Browser(), at = provider) {
  at.account = account;
  const answer = await browser.follow(of.start, `${base}/done`);
  return { browser, answer, token: browser.cookies(base)[sessionCookie] };
}

/** As far as the address that the provider sends the browser back to. */
async function comingBack(of: Company, account: TestProvider['account'], browser = new Browser(), start = of.start) {
  provider.account = account;
  const answer = await browser.follow(start, of.callback);
  return { browser, callback: answer.location ?? '' };
}

const refusedWith = (answer: { location: string | null; text: string }): string | null =>
  answer.location === null
    ? (JSON.parse(answer.text) as { code: string }).code
    : new URL(answer.location).searchParams.get('error');

const usersOf = (domain: string) => app().db.user.findMany({ where: { email: { endsWith: `@${domain}` } } });

describe('signing in by a provider', () => {
  test('provisions a member, opens a session, and knows them by their subject afterwards', async () => {
    const of = await company();
    const sub = unique();
    const first = await signIn(of, { sub, email: `Grace@${of.domain}`, email_verified: true, name: 'Grace' });
    expect(first.answer.location).toBe(`${base}/done`);
    const me = await viewer(first.token ?? '');
    expect(me).toMatchObject({
      viewer: {
        email: `grace@${of.domain}`,
        identities: [{ provider: `sso:${rowId('SsoConnection', of.connectionId)}` }],
      },
      workspaces: { nodes: [{ id: of.id, viewerRole: 'MEMBER' }] },
    });
    const session = await app().db.session.findFirstOrThrow({ where: { userId: rowId('User', me.viewer.id) } });
    expect(session).toMatchObject({ method: 'SSO', ssoConnectionId: rowId('SsoConnection', of.connectionId) });
    expect(first.browser.attributes(base, sessionCookie)).toMatch(/HttpOnly.*SameSite=Lax/);
    // The address at the provider is another one now, and not even verified.
    const again = await signIn(of, { sub, email: 'other@elsewhere.example', email_verified: false });
    expect((await viewer(again.token ?? '')).viewer.id).toBe(me.viewer.id);
    expect(again.token).not.toBe(first.token);
  });

  test('asks for what it must: PKCE, state, nonce, and nothing that a log could keep of the client', async () => {
    const of = await company();
    const browser = new Browser();
    const { location, headers } = await browser.get(of.start);
    const sent = new URL(location ?? '').searchParams;
    expect(Object.fromEntries(sent)).toMatchObject({
      response_type: 'code',
      code_challenge_method: 'S256',
      client_id: clientId,
      redirect_uri: of.callback,
      scope: 'openid email profile',
    });
    for (const name of ['state', 'nonce', 'code_challenge']) expect(sent.get(name)?.length).toBeGreaterThanOrEqual(43);
    expect(browser.attributes(base, 'switchyard_sign_in')).toBe('Max-Age=600; Path=/auth; HttpOnly; SameSite=Lax');
    expect(headers.get('cache-control')).toBe('no-store');
    const kept = browser.cookies(`${base}/auth`)['switchyard_sign_in'] ?? '';
    for (const name of ['state', 'nonce'])
      expect(Buffer.from(kept.split('.').at(-1) ?? '', 'base64url').toString()).not.toContain(sent.get(name));
  });

  test('a provider that tells of people at its userinfo address only', async () => {
    const strict = await startProvider({ userinfoOnly: true });
    onTestFinished(() => strict.close());
    const of = await company({ at: strict });
    const { token } = await signIn(
      of,
      { sub: unique(), email: `a@${of.domain}`, email_verified: true },
      new Browser(),
      strict,
    );
    expect((await viewer(token ?? '')).viewer.email).toBe(`a@${of.domain}`);
    expect(strict.asked).toContain('GET /me');
  });

  test('two first sign-ins at once make one user', async () => {
    const of = await company();
    for (let round = 0; round < 3; round++) {
      const account = { sub: unique(), email: `${unique()}@${of.domain}`, email_verified: true };
      const back = await Promise.all([1, 2, 3, 4].map(() => comingBack(of, account)));
      const answers = await Promise.all(back.map(({ browser, callback }) => browser.get(callback)));
      expect(answers.map(({ location }) => location)).toEqual(Array(4).fill(`${base}/done`));
      const users = await app().db.user.findMany({
        where: { email: account.email },
        include: { identities: true, memberships: true },
      });
      expect(users).toHaveLength(1);
      expect([users[0]?.identities.length, users[0]?.memberships.length]).toEqual([1, 1]);
    }
  });

  test('an account with the verified address is linked, and keeps its password', async () => {
    const of = await company();
    const email = `bob@${of.domain}`;
    const bob = await someone(app());
    await app().db.user.update({ where: { id: bob.id }, data: { email, emailVerifiedAt: new Date() } });
    const { token } = await signIn(of, { sub: unique(), email, email_verified: true });
    expect(rowId('User', (await viewer(token ?? '')).viewer.id)).toBe(bob.id);
    expect(await app().db.user.findUniqueOrThrow({ where: { id: bob.id } })).toMatchObject({
      passwordHash: expect.any(String),
    });
    expect((await viewer(bob.token)).workspaces.nodes).toMatchObject([{ id: of.id }]);
    const told = async () => (await mailsTo(server.url, email)).filter(({ subject }) => /Another way/.test(subject));
    expect((await told())[0]?.text).toContain(`"Company" (${provider.issuer})`);
  });

  test('an account that a stranger made with the address beforehand is theirs no more', async () => {
    const of = await company();
    const email = `victim@${of.domain}`;
    const password = 'a password of the stranger';
    const made = await data<{ signUp: { token: string } }>(
      server.url,
      `mutation ($input: SignUpInput!) { signUp(input: $input) { ... on SignUpSuccess { token } } }`,
      { input: { email, password, name: 'Stranger' } },
    );
    const stranger = { token: made.signUp.token };
    const own = await workspace(server.url, stranger);
    const key = await apiKey(server.url, stranger, own.id, 'OWNER');
    const { id } = await app().db.user.findUniqueOrThrow({ where: { email } });
    await app().db.externalIdentity.create({
      data: { id: newId(), userId: id, provider: 'github', subject: unique() },
    });
    const follower = new Follower(server.url, stranger, 'workspaceEvents', { id: own.id });
    onTestFinished(() => follower.close());
    await until('the stream has begun', async () => follower.items.length > 0);

    const { token } = await signIn(of, { sub: unique(), email, email_verified: true, name: 'Victim' });
    expect(rowId('User', (await viewer(token ?? '')).viewer.id)).toBe(id);
    const user = await app().db.user.findUniqueOrThrow({
      where: { id },
      include: { identities: true, mailTokens: true },
    });
    expect(user).toMatchObject({
      passwordHash: null,
      emailVerifiedAt: expect.any(Date),
      name: 'Victim',
      mailTokens: [],
    });
    expect(user.identities.map((one) => one.provider)).toEqual([`sso:${rowId('SsoConnection', of.connectionId)}`]);
    await until('the stream has ended', async () => follower.closed?.code === 4403);
    for (const auth of [stranger, key])
      expect((await send(server.url, '{ workspaces { nodes { id } } }', {}, auth)).status).toBe(401);
    const tried = await data<{ signIn: { __typename: string } }>(
      server.url,
      `mutation ($input: SignInInput!) { signIn(input: $input) { __typename } }`,
      { input: { email, password } },
    );
    expect(tried.signIn.__typename).toBe('SignInRefused');
  });
});

describe('who does not come in', () => {
  const table: [string, string, (of: Company) => TestProvider['account']][] = [
    [
      'an address that is not verified',
      'EMAIL_NOT_VERIFIED',
      (of) => ({ sub: unique(), email: `a@${of.domain}`, email_verified: false }),
    ],
    [
      'an address of which the provider does not say',
      'EMAIL_NOT_VERIFIED',
      (of) => ({ sub: unique(), email: `a@${of.domain}` }),
    ],
    ['nobody’s address', 'EMAIL_NOT_VERIFIED', () => ({ sub: unique(), email_verified: true })],
    ['an address that is none', 'EMAIL_NOT_VERIFIED', () => ({ sub: unique(), email: 'none', email_verified: true })],
    [
      'another domain',
      'SSO_DOMAIN_NOT_CLAIMED',
      () => ({ sub: unique(), email: 'a@elsewhere.example', email_verified: true }),
    ],
    [
      'a subdomain',
      'SSO_DOMAIN_NOT_CLAIMED',
      (of) => ({ sub: unique(), email: `a@x.${of.domain}`, email_verified: true }),
    ],
    [
      'a domain that ends the same',
      'SSO_DOMAIN_NOT_CLAIMED',
      (of) => ({ sub: unique(), email: `a@x${of.domain}`, email_verified: true }),
    ],
  ];
  test.each(table)('%s', async (_, code, account) => {
    const of = await company();
    const { answer, token } = await signIn(of, account(of));
    expect([refusedWith(answer), token]).toEqual([code, undefined]);
    expect(await usersOf(of.domain)).toEqual([]);
    await app().use(Denials).flush();
    const told = await app().db.event.findFirst({ where: { type: 'signIn.refused' }, orderBy: { seq: 'desc' } });
    expect(told?.data).toMatchObject({ method: 'SSO', reason: code });
  });

  test('without the claim, an owner can say that the provider makes sure; what it denies stays denied', async () => {
    const of = await company({ trustEmail: true });
    const good = await signIn(of, { sub: unique(), email: `a@${of.domain}` });
    expect((await viewer(good.token ?? '')).viewer.email).toBe(`a@${of.domain}`);
    const denied = await signIn(of, { sub: unique(), email: `b@${of.domain}`, email_verified: false });
    expect(refusedWith(denied.answer)).toBe('EMAIL_NOT_VERIFIED');
  });

  test('a domain that is only said to be the workspace’s', async () => {
    const of = await company();
    const domain = `${unique()}.example`;
    await mutate('addSsoDomain', { workspaceId: of.id, domain }, ada);
    const { answer } = await signIn(of, { sub: unique(), email: `a@${domain}`, email_verified: true });
    expect(refusedWith(answer)).toBe('SSO_DOMAIN_NOT_CLAIMED');
  });

  test('nobody new where nobody is provisioned: no account, no link, no takeover', async () => {
    const of = await company({ provisionRole: null });
    const email = `a@${of.domain}`;
    const none = await signIn(of, { sub: unique(), email, email_verified: true });
    expect([refusedWith(none.answer), await usersOf(of.domain)]).toEqual(['SSO_NOT_A_MEMBER', []]);
    const { id } = await someone(app());
    await app().db.user.update({ where: { id }, data: { email } });
    const stranger = await signIn(of, { sub: unique(), email, email_verified: true });
    expect(refusedWith(stranger.answer)).toBe('SSO_NOT_A_MEMBER');
    const user = await app().db.user.findUniqueOrThrow({ where: { id }, include: { identities: true } });
    expect(user).toMatchObject({ emailVerifiedAt: null, passwordHash: expect.any(String), identities: [] });
    await app().db.membership.create({
      data: { id: newId(), workspaceId: rowId('Workspace', of.id), userId: id, role: 'VIEWER' },
    });
    const { token } = await signIn(of, { sub: unique(), email, email_verified: true });
    expect(rowId('User', (await viewer(token ?? '')).viewer.id)).toBe(id);
  });

  test('a closed account, known or not; a known one whose address is the company’s no more', async () => {
    const of = await company();
    const account = { sub: unique(), email: `a@${of.domain}`, email_verified: true };
    await signIn(of, account);
    const [user] = await usersOf(of.domain);
    const set = (change: object) => app().db.user.update({ where: { id: user?.id ?? '' }, data: change });
    await set({ closedAt: new Date() });
    expect(refusedWith((await signIn(of, account)).answer)).toBe('ACCOUNT_CLOSED');
    expect(refusedWith((await signIn(of, { ...account, sub: unique() })).answer)).toBe('ACCOUNT_CLOSED');
    await set({ closedAt: null, email: `${unique()}@private.example` });
    expect(refusedWith((await signIn(of, account)).answer)).toBe('SSO_DOMAIN_NOT_CLAIMED');
  });

  test('by a provider that was switched off, or that there is not', async () => {
    const of = await company();
    const account = { sub: unique(), email: `a@${of.domain}`, email_verified: true };
    const { token } = await signIn(of, account);
    const { browser, callback } = await comingBack(of, { ...account, sub: unique() });
    // However many there are, they end by a few statements.
    const people = await Promise.all(
      Array.from({ length: 5 }, () => memberOf(app(), { id: rowId('Workspace', of.id) }, 'MEMBER')),
    );
    const ssoConnectionId = rowId('SsoConnection', of.connectionId);
    await app().db.session.updateMany({
      where: { userId: { in: people.map(({ id }) => id) } },
      data: { ssoConnectionId },
    });
    const asked = vi.spyOn(Client.prototype, 'query');
    onTestFinished(() => asked.mockRestore());
    expect((await mutate('disableSsoConnection', { id: of.connectionId }, ada)).__typename).toMatch(/Success$/);
    const texts = asked.mock.calls.map(([query]) => (query as unknown as { text?: string }).text ?? '');
    expect(texts.filter((text) => /^UPDATE .*"session" SET "ended_at"/.test(text))).toHaveLength(1);
    expect(await app().db.session.count({ where: { ssoConnectionId, endedAt: null } })).toBe(0);
    expect(refusedWith(await browser.get(callback))).toBe('PROVIDER_UNKNOWN');
    expect(refusedWith((await signIn(of, account)).answer)).toBe('PROVIDER_UNKNOWN');
    expect((await send(server.url, '{ workspaces { nodes { id } } }', {}, { token: token ?? '' })).status).toBe(401);
    for (const id of [newId(), 'nonsense', '%00', 'callback%2f']) {
      const answer = await new Browser().get(`${base}/auth/sso/${id}?returnTo=/done`);
      expect(refusedWith(answer)).toBe('PROVIDER_UNKNOWN');
    }
  });
});

describe('the way back', () => {
  let of: Company;
  const account = () => ({ sub: unique(), email: `${unique()}@${of.domain}`, email_verified: true });
  beforeAll(async () => {
    of = await company();
  });

  const changed = (callback: string, name: string, value: string | null): string => {
    const url = new URL(callback);
    if (value === null) url.searchParams.delete(name);
    else url.searchParams.set(name, value);
    return url.href;
  };

  test('is good once', async () => {
    const browser = new Browser();
    const { callback } = await comingBack(of, account(), browser);
    const kept = browser.cookies(callback)['switchyard_sign_in'] ?? '';
    expect((await browser.get(callback)).location).toBe(`${base}/done`);
    expect(browser.cookies(callback)['switchyard_sign_in']).toBeUndefined();
    const thief = new Browser();
    thief.set(base, 'switchyard_sign_in', kept);
    expect(refusedWith(await thief.get(callback))).toBe('SIGN_IN_USED');
    expect(thief.cookies(base)[sessionCookie]).toBeUndefined();
  });

  test('leads in only the browser that began', async () => {
    const { callback } = await comingBack(of, account());
    expect(refusedWith(await new Browser().get(callback))).toBe('SIGN_IN_INVALID');
    // Nor one that began something else: an attacker's way back in a victim's browser.
    const victim = new Browser();
    await comingBack(of, account(), victim);
    expect(refusedWith(await victim.get(callback))).toBe('SIGN_IN_INVALID');
    expect(victim.cookies(base)[sessionCookie]).toBeUndefined();
  });

  test.each<[string, (callback: string) => string, string]>([
    ['another state', (url) => changed(url, 'state', 'x'.repeat(43)), 'SIGN_IN_INVALID'],
    ['no state', (url) => changed(url, 'state', null), 'SIGN_IN_INVALID'],
    ['two states', (url) => `${url}&state=x`, 'SIGN_IN_INVALID'],
    ['another code', (url) => changed(url, 'code', 'x'.repeat(43)), 'PROVIDER_REFUSED'],
    ['no code', (url) => changed(url, 'code', null), 'PROVIDER_REFUSED'],
    ['two codes', (url) => `${url}&code=x`, 'PROVIDER_REFUSED'],
    ['another issuer', (url) => changed(url, 'iss', 'https://evil.example'), 'PROVIDER_REFUSED'],
    ['no issuer, of a provider that names it', (url) => changed(url, 'iss', null), 'PROVIDER_REFUSED'],
    ['a refusal', (url) => changed(changed(url, 'code', null), 'error', 'access_denied'), 'ACCESS_DENIED'],
  ])('with %s', async (_, change, code) => {
    const { browser, callback } = await comingBack(of, account());
    expect(refusedWith(await browser.get(change(callback)))).toBe(code);
    expect(browser.cookies(base)[sessionCookie]).toBeUndefined();
  });

  test('with a nonce that the sign-in did not begin with', async () => {
    provider.account = account();
    const browser = new Browser();
    const begun = await browser.get(of.start);
    const back = await browser.follow(changed(begun.location ?? '', 'nonce', 'x'.repeat(43)), of.callback);
    expect(refusedWith(await browser.get(back.location ?? ''))).toBe('PROVIDER_REFUSED');
  });

  test('with another code challenge: a code that somebody else asked for', async () => {
    provider.account = account();
    const browser = new Browser();
    const begun = await browser.get(of.start);
    const back = await browser.follow(changed(begun.location ?? '', 'code_challenge', 'x'.repeat(43)), of.callback);
    expect(refusedWith(await browser.get(back.location ?? ''))).toBe('PROVIDER_REFUSED');
  });

  test('from another provider than the one that it began at', async () => {
    const theirs = await company({ at: other });
    other.account = { sub: unique(), email: `a@${of.domain}`, email_verified: true };
    const evil = await new Browser().follow(theirs.start, theirs.callback);
    const { browser, callback } = await comingBack(of, account());
    const mixed = new URL(evil.location ?? '');
    mixed.searchParams.set('state', new URL(callback).searchParams.get('state') ?? '');
    expect(refusedWith(await browser.get(mixed.href))).toBe('SIGN_IN_INVALID');
    // Nor with its code at the address of the one that it began at.
    const second = await comingBack(of, account());
    const code = changed(second.callback, 'code', mixed.searchParams.get('code'));
    expect(refusedWith(await second.browser.get(code))).toBe('PROVIDER_REFUSED');
    // And vouching for an address of a domain that is not its workspace's.
    const direct = await signIn(theirs, other.account, new Browser(), other);
    expect(refusedWith(direct.answer)).toBe('SSO_DOMAIN_NOT_CLAIMED');
  });

  test('a provider that sends people on to another one does not get its code', async () => {
    const evil = await startProvider();
    onTestFinished(() => evil.close());
    const theirs = await company({ at: evil });
    provider.account = account();
    const sendOn = (redirectUri: string) => {
      evil.intercept = (req, res) => {
        const url = new URL(req.url ?? '', evil.issuer);
        if (url.pathname !== '/auth') return false;
        // The honest one knows this server by the same client id; state and challenge are those of the victim.
        url.searchParams.set('redirect_uri', redirectUri);
        res.writeHead(302, { location: `${provider.issuer}/auth${url.search}` }).end();
        return true;
      };
    };
    // At the honest provider only the address of its own connection is registered.
    sendOn(theirs.callback);
    const victim = new Browser();
    const refused = await victim.follow(theirs.start);
    expect([refused.status, refused.url.startsWith(provider.issuer)]).toEqual([400, true]);

    sendOn(of.callback);
    const back = await victim.follow(theirs.start, of.callback);
    expect(new URL(back.location ?? '').searchParams.get('code')).toMatch(/./);
    // It does not say who it is (RFC 9207), as many do not.
    expect(refusedWith(await victim.get(changed(back.location ?? '', 'iss', null)))).toBe('SIGN_IN_INVALID');
    expect(evil.asked).not.toContain('POST /token');
    expect(victim.cookies(base)[sessionCookie]).toBeUndefined();
  });

  test('to another connection of the same provider', async () => {
    const twin = await company();
    const { browser, callback } = await comingBack(of, account());
    expect(refusedWith(await browser.get(callback.replace(of.callback, twin.callback)))).toBe('SIGN_IN_INVALID');
    expect(browser.cookies(base)[sessionCookie]).toBeUndefined();
  });

  test('leaves somebody else signed in, makes no account, and changes nothing of theirs', async () => {
    const stranger = account();
    const { browser, callback } = await comingBack(of, stranger);
    browser.set(base, sessionCookie, ada.token);
    const before = await app().db.user.count();
    expect(refusedWith(await browser.get(callback))).toBe('SIGNED_IN_AS_ANOTHER');
    expect(browser.cookies(base)[sessionCookie]).toBe(ada.token);
    expect([
      await usersOf(of.domain).then((all) => all.filter(({ email }) => email === stranger.email)),
      await app().db.user.count(),
    ]).toEqual([[], before]);
    // Nor as somebody who is known. The same person comes in again, and so does who finds a session that has ended.
    const { token = '' } = await signIn(of, stranger);
    const inBrowserOf = async (session: string) => {
      const back = await comingBack(of, stranger);
      back.browser.set(base, sessionCookie, session);
      return back.browser.get(back.callback);
    };
    const other = await person(server.url);
    expect(refusedWith(await inBrowserOf(other.token))).toBe('SIGNED_IN_AS_ANOTHER');
    expect((await inBrowserOf(token)).location).toBe(`${base}/done`);
    await app().db.session.updateMany({ where: { userId: rowId('User', other.id) }, data: { endedAt: new Date() } });
    expect((await inBrowserOf(other.token)).location).toBe(`${base}/done`);
  });

  test('with a cookie that was changed, cut, or is of something else', async () => {
    const { browser, callback } = await comingBack(of, account());
    const kept = browser.cookies(callback)['switchyard_sign_in'] ?? '';
    const flipped = `${kept.slice(0, -5)}${kept.at(-5) === 'A' ? 'B' : 'A'}${kept.slice(-4)}`;
    for (const value of [flipped, kept.slice(0, -10), 'v1.x.y.z.w', 'x'.repeat(5000), '']) {
      const forged = new Browser();
      forged.set(base, 'switchyard_sign_in', value);
      expect(refusedWith(await forged.get(callback))).toBe('SIGN_IN_INVALID');
    }
  });

  test('of a sign-in at GitHub', async () => {
    const { browser, callback } = await comingBack(of, account());
    const answer = await browser.get(callback.replace(of.callback, `${base}/auth/github/callback`));
    expect(refusedWith(answer)).toBe('SIGN_IN_INVALID');
  });

  test('after more than ten minutes', async () => {
    const before = Date.now();
    const { browser, callback } = await comingBack(of, account());
    const { Sealing } = await import('../../../src/kernel/sealing/sealing.ts');
    const context = 'sign-in at another system';
    const kept = browser.cookies(callback)['switchyard_sign_in'] ?? '';
    const begun = JSON.parse(await app().use(Sealing).openText(kept, context)) as { expiresAt: number };
    expect(begun.expiresAt).toBeGreaterThanOrEqual(before + 600_000);
    expect(begun.expiresAt).toBeLessThanOrEqual(Date.now() + 600_000);
    const old = await app()
      .use(Sealing)
      .seal(JSON.stringify({ ...begun, expiresAt: Date.now() - 1 }), context);
    browser.set(base, 'switchyard_sign_in', old);
    expect(refusedWith(await browser.get(callback))).toBe('SIGN_IN_EXPIRED');
  });

  test('while the provider is down, or answers nonsense', async () => {
    for (const [answer, code] of [
      [(_: unknown, res: { destroy(): void }) => res.destroy(), 'PROVIDER_UNAVAILABLE'],
      [
        (_: unknown, res: { writeHead(s: number): { end(text: string): void } }) => res.writeHead(500).end('x'),
        'PROVIDER_UNAVAILABLE',
      ],
    ] as const) {
      const { browser, callback } = await comingBack(of, account());
      provider.intercept = (req, res) => {
        answer(req, res);
        return true;
      };
      expect(refusedWith(await browser.get(callback))).toBe(code);
      expect(refusedWith(await new Browser().get(of.start))).toBe(code);
      provider.intercept = null;
    }
  });

  test('makes nobody an account but those whose way back was good', async () => {
    expect(await usersOf(of.domain)).toHaveLength(2);
  });

  test('other methods are refused', async () => {
    for (const address of [of.start, of.callback, `${base}/auth/github`])
      expect((await new Browser().get(address, { method: 'POST' })).status).toBe(405);
  });
});

describe('a browser that another site sends to sign in', () => {
  const sent = (site: string, more: object = {}) => ({ headers: { 'sec-fetch-site': site, ...more } });

  test('asks its person first, on a page of this server without scripts', async () => {
    const of = await company();
    await app().db.ssoConnection.update({
      where: { id: rowId('SsoConnection', of.connectionId) },
      data: { name: '<script>"Acme" & \'Co\'' },
    });
    for (const headers of [
      sent('cross-site'),
      sent('same-site'),
      sent('cross-site', { referer: 'https://evil.example/' }),
      sent('cross-site', { referer: 'nonsense' }),
    ]) {
      const browser = new Browser();
      const answer = await browser.get(of.start, headers);
      expect([answer.status, answer.location, browser.cookies(`${base}/auth`)]).toEqual([200, null, {}]);
      expect(answer.headers.get('content-type')).toBe('text/html; charset=utf-8');
      expect(answer.headers.get('content-security-policy')).toMatch(/^default-src 'none'; frame-ancestors 'none'/);
      expect(answer.text).toContain('&#60;script&#62;&#34;Acme&#34; &#38; &#39;Co&#39;');
      expect(answer.text).toContain(new URL(provider.issuer).host);
      expect(answer.text).not.toMatch(/<script/);
      const [, href = ''] = /href="([^"]+)"/.exec(answer.text) ?? [];
      expect(new URL(href, base).href).toBe(of.start.replace('/done', '%2Fdone'));
      const next = await browser.get(new URL(href, base).href, sent('same-origin'));
      expect(next.location).toMatch(`${provider.issuer}/auth`);
      expect(Object.keys(browser.cookies(`${base}/auth`))).toEqual(['switchyard_sign_in']);
    }
  });

  test('not from an application of this server, from an address that was typed, or by an old browser', async () => {
    const of = await company();
    for (const headers of [
      sent('same-origin'),
      sent('none'),
      sent('cross-site', { referer: 'https://app.example.com/' }),
      {},
    ])
      expect((await new Browser().get(of.start, headers)).location).toMatch(`${provider.issuer}/auth`);
  });

  test('is told at once what cannot be', async () => {
    const of = await company();
    const unknown = await new Browser().get(`${base}/auth/sso/${newId()}?returnTo=/done`, sent('cross-site'));
    expect(refusedWith(unknown)).toBe('PROVIDER_UNKNOWN');
    const open = await new Browser().get(of.start.replace('/done', '//evil.example'), sent('cross-site'));
    expect([open.status, refusedWith(open)]).toEqual([400, 'RETURN_TO_REFUSED']);
    const gitHub = await new Browser().get(`${base}/auth/github?returnTo=/done`, sent('cross-site'));
    expect(refusedWith(gitHub)).toBe('PROVIDER_UNKNOWN');
  });
});

describe('where the browser goes afterwards', () => {
  const allowed = new Set(['https://app.example.com', 'http://127.0.0.1:4000']);
  test.each([
    ['/', '/'],
    ['/a/b?c=d#e', '/a/b?c=d#e'],
    ['/a/../b', '/b'],
    ['https://app.example.com', 'https://app.example.com/'],
    ['https://app.example.com/a?b', 'https://app.example.com/a?b'],
  ])('%s', (text, expected) => {
    expect(safeReturn(text, 'http://127.0.0.1:4000', allowed)).toBe(expected);
  });
  test.each([
    '//evil.example',
    '///evil.example',
    '/\\evil.example',
    '\\\\evil.example',
    '/\t/evil.example',
    '/\n/evil.example',
    '/%0a/evil.example\r\n',
    'https:evil.example',
    'https:/evil.example',
    'https:///evil.example',
    'http:\\\\evil.example',
    'https://evil.example',
    'https://app.example.com.evil.example',
    'https://app.example.com@evil.example',
    'https://evil.example#@app.example.com',
    'https://evil.example\\@app.example.com',
    'http://app.example.com',
    'https://app.example.com:444',
    'javascript:alert(1)',
    'data:text/html,x',
    'JaVaScRiPt://app.example.com/%0aalert(1)',
    ' /a',
    '/a b',
    '',
    'a',
    '.',
    '?x',
    '#x',
    '/..//evil.example',
    '/.//evil.example',
    '/\u0000',
    '/é',
    '/／evil.example',
    'https://user:pw@app.example.com/',
    'blob:https://app.example.com/x',
    `/${'a'.repeat(1000)}`,
  ])('%j is refused', (text) => {
    expect(safeReturn(text, 'http://127.0.0.1:4000', allowed)).toBeNull();
  });

  test('nothing is begun for an address that is refused, and nobody is sent there', async () => {
    const of = await company();
    for (const address of ['//evil.example', 'https://evil.example/']) {
      const url = of.start.replace('/done', encodeURIComponent(address));
      const answer = await new Browser().get(url);
      expect([answer.status, answer.location, refusedWith(answer)]).toEqual([400, null, 'RETURN_TO_REFUSED']);
    }
    expect(refusedWith(await new Browser().get(`${of.start}&returnTo=/other`))).toBe('RETURN_TO_REFUSED');
  });

  test('an application of another origin gets its person back, or the code of what was wrong', async () => {
    const of = await company();
    const start = of.start.replace('/done', encodeURIComponent('https://app.example.com/in?x=1#y'));
    const account = { sub: unique(), email: `a@${of.domain}`, email_verified: true };
    const good = await comingBack(of, account, new Browser(), start);
    expect((await good.browser.get(good.callback)).location).toBe('https://app.example.com/in?x=1#y');
    const bad = await comingBack(
      of,
      { ...account, sub: unique(), email_verified: false, email: `b@${of.domain}` },
      new Browser(),
      start,
    );
    expect((await bad.browser.get(bad.callback)).location).toBe(
      'https://app.example.com/in?x=1&error=EMAIL_NOT_VERIFIED#y',
    );
  });
});

describe('setting a provider up', () => {
  const create = async (more: object, by: Auth = ada) => {
    const { id } = await workspace(server.url, ada);
    const input = { workspaceId: id, name: 'X', issuer: provider.issuer, clientId, clientSecret, ...more };
    return mutate('createSsoConnection', input, by, connectionFields);
  };

  test('the secret is sealed, and never shown', async () => {
    const of = await company();
    const row = await app().db.ssoConnection.findUniqueOrThrow({
      where: { id: rowId('SsoConnection', of.connectionId) },
    });
    expect(row.clientSecret).toMatch(/^v1\./);
    expect(row.clientSecret).not.toContain(clientSecret);
    const shown = await data<{ node: object }>(
      server.url,
      `query ($id: ID!) { node(id: $id) { ... on SsoConnection { hasClientSecret issuer clientId } } }`,
      { id: of.connectionId },
      ada,
    );
    expect(shown.node).toEqual({ hasClientSecret: true, issuer: provider.issuer, clientId });
  });

  test('says what is wrong with a provider', async () => {
    const closed = await startProvider();
    await closed.close();
    const cases: [object, string][] = [
      [{ issuer: closed.issuer }, 'UNREACHABLE'],
      [{ issuer: `${provider.issuer}/elsewhere` }, 'NO_PROVIDER'],
      [{ issuer: `${provider.issuer}/` }, 'ISSUER_MISMATCH'],
      [{ issuer: provider.issuer.replace('127.0.0.1', 'localhost') }, 'ISSUER_MISMATCH'],
      [{ issuer: 'https://169.254.169.254' }, 'ADDRESS_REFUSED'],
      [{ issuer: 'https://10.0.0.1' }, 'ADDRESS_REFUSED'],
      [{ issuer: 'ftp://example.com' }, 'ADDRESS_REFUSED'],
    ];
    for (const [more, reason] of cases)
      expect([more, await create(more)]).toEqual([
        more,
        expect.objectContaining({ __typename: 'SsoMisconfigured', reason }),
      ]);
    for (const [document, reason] of [
      ['not JSON', 'NO_PROVIDER'],
      [JSON.stringify({ issuer: provider.issuer }), 'UNSUPPORTED'],
      [JSON.stringify({ issuer: 'https://evil.example' }), 'ISSUER_MISMATCH'],
      [' '.repeat(2_000_000), 'UNREACHABLE'],
    ]) {
      provider.intercept = (_, res) => {
        res.writeHead(200, { 'content-type': 'application/json' }).end(document);
        return true;
      };
      expect(await create({})).toMatchObject({ __typename: 'SsoMisconfigured', reason });
    }
    provider.intercept = (_, res) => {
      res.writeHead(302, { location: 'http://169.254.169.254/latest' }).end();
      return true;
    };
    expect(await create({})).toMatchObject({ __typename: 'SsoMisconfigured', reason: 'UNREACHABLE' });
  });

  test('nobody is provisioned as an owner', async () => {
    expect((await create({ provisionRole: 'OWNER' })).__typename).toBe('ValidationError');
  });

  test('an update without a secret keeps it; null takes it away', async () => {
    const of = await company();
    const secret = async () =>
      (await app().db.ssoConnection.findUniqueOrThrow({ where: { id: rowId('SsoConnection', of.connectionId) } }))
        .clientSecret;
    const before = await secret();
    expect((await mutate('updateSsoConnection', { id: of.connectionId, name: 'New' }, ada)).__typename).toMatch(
      /Success/,
    );
    expect(await secret()).toBe(before);
    expect((await mutate('updateSsoConnection', { id: of.connectionId, clientSecret: null }, ada)).__typename).toMatch(
      /Success/,
    );
    expect(await secret()).toBeNull();
  });
});

describe('domains', () => {
  const add = (workspaceId: string, domain: string) =>
    mutate('addSsoDomain', { workspaceId, domain }, ada, domainFields);

  test('are verified by a record in their DNS, and by nothing else', async () => {
    const { id } = await workspace(server.url, ada);
    const domain = `${unique()}.example`;
    const { ssoDomain } = await add(id, domain.toUpperCase());
    expect(ssoDomain?.record).toBe(`_switchyard-challenge.${domain}`);
    const verify = () => mutate('verifySsoDomain', { id: ssoDomain?.id }, ada, '... on DomainNotVerified { record }');
    expect(await verify()).toMatchObject({ __typename: 'DomainNotVerified', record: ssoDomain?.record });
    txt.set(domain, [ssoDomain?.challenge ?? '']);
    txt.set(ssoDomain?.record ?? '', [`${ssoDomain?.challenge}x`, '']);
    expect((await verify()).__typename).toBe('DomainNotVerified');
    txt.set(ssoDomain?.record ?? '', ['other', ssoDomain?.challenge ?? '']);
    expect((await verify()).__typename).toBe('VerifySsoDomainSuccess');
    expect((await add(id, domain)).__typename).toBe('Conflict');
  });

  test.each([
    'gmail.com',
    'GMAIL.com',
    'outlook.com',
    'example',
    'x y.example',
    '10.0.0.1',
    'a..b',
    '',
    'http://a.example',
    `${'a'.repeat(64)}.example`,
  ])('%j is refused', async (domain) => {
    const { id } = await workspace(server.url, ada);
    expect((await add(id, domain)).__typename).toBe('ValidationError');
  });

  test('are verified for one workspace only, also when two try at once', async () => {
    for (let round = 0; round < 5; round++) {
      const domain = `${unique()}.example`;
      const added = await Promise.all(
        [1, 2, 3].map(async () => {
          const { id } = await workspace(server.url, ada);
          return (await add(id, domain)).ssoDomain;
        }),
      );
      txt.set(
        `_switchyard-challenge.${domain}`,
        added.map((one) => one?.challenge ?? ''),
      );
      const answers = await Promise.all(added.map((one) => mutate('verifySsoDomain', { id: one?.id }, ada)));
      expect(answers.map(({ __typename }) => __typename).toSorted()).toEqual([
        'Conflict',
        'Conflict',
        'VerifySsoDomainSuccess',
      ]);
      expect(await app().db.ssoDomain.count({ where: { domain, verifiedAt: { not: null } } })).toBe(1);
    }
  });

  test('tell which ways in an address has, and nothing of accounts', async () => {
    const of = await company();
    await signIn(of, { sub: unique(), email: `known@${of.domain}`, email_verified: true });
    const ask = async (email: string) =>
      (
        await data<{ signInMethods: object }>(
          server.url,
          `query ($email: String!) { signInMethods(email: $email) { password github sso { name url } } }`,
          { email },
        )
      ).signInMethods;
    const expected = {
      password: true,
      github: false,
      sso: [{ name: 'Company', url: `${base}/auth/sso/${rowId('SsoConnection', of.connectionId)}` }],
    };
    expect(await ask(`known@${of.domain}`)).toEqual(expected);
    expect(await ask(`Unknown@${of.domain.toUpperCase()}`)).toEqual(expected);
    expect(await ask(ada.email)).toEqual({ ...expected, sso: [] });
    expect(await ask('nonsense')).toEqual({ ...expected, sso: [] });
    await mutate('disableSsoConnection', { id: of.connectionId }, ada);
    expect(await ask(`known@${of.domain}`)).toEqual({ ...expected, sso: [] });
  });
});

test('a name server that does not answer is left when the signal says so', async () => {
  const deaf = createSocket('udp4');
  await new Promise<void>((resolve) => deaf.bind(0, '127.0.0.1', resolve));
  onTestFinished(() => void deaf.close());
  const begun = performance.now();
  const asked = systemTxt('example.com', AbortSignal.timeout(200), [`127.0.0.1:${deaf.address().port}`]);
  await expect(asked).rejects.toMatchObject({ code: 'ECANCELLED' });
  expect(performance.now() - begun).toBeLessThan(2500);
});

describe('enforcement', () => {
  const enforce = (workspaceId: string, enforced: boolean, by: Auth = ada) =>
    mutate('setSsoEnforced', { workspaceId, enforced }, by);

  test('keeps out members who came by another way, their open streams too; owners and people of the provider go on', async () => {
    const of = await company();
    const email = `m@${of.domain}`;
    const tenant = { id: rowId('Workspace', of.id) };
    const member = await memberOf(app(), tenant, 'ADMIN');
    await app().db.user.update({ where: { id: member.id }, data: { email, emailVerifiedAt: new Date() } });
    const { token = '' } = await signIn(of, { sub: unique(), email, email_verified: true });
    const bySso = { token };
    const [his, own, theirs] = [member, ada, bySso].map(
      (auth) => new Follower(server.url, auth, 'workspaceEvents', { id: of.id }),
    ) as [Follower, Follower, Follower];
    onTestFinished(async () => void (await Promise.all([his, own, theirs].map((one) => one.close()))));
    await until('the streams have begun', async () => [his, own, theirs].every(({ items }) => items.length > 0));
    const reaches = async (auth: Auth) =>
      (
        await data<{ workspaces: { nodes: { id: string }[] } }>(server.url, '{ workspaces { nodes { id } } }', {}, auth)
      ).workspaces.nodes.some(({ id }) => id === of.id);

    expect((await enforce(of.id, true)).__typename).toBe('SetSsoEnforcedSuccess');
    // Promised within a second.
    await until('the stream was closed', async () => his.closed !== null, 10_000);
    expect(his.closed?.code).toBe(4403);
    expect([await reaches(member), await reaches(ada), await reaches(bySso)]).toEqual([false, true, true]);
    await until('the others were told', async () =>
      [own, theirs].every(({ events }) => events.some(({ type }) => type === 'workspace.ssoEnforcementChanged')),
    );
    expect([own.closed, theirs.closed]).toEqual([null, null]);
    // A session of another workspace's provider is none of this one's.
    const elsewhere = await company({ at: other });
    await app().db.ssoDomain.updateMany({ where: { domain: of.domain }, data: { verifiedAt: null } });
    await verified(elsewhere.id, of.domain);
    const foreign = await signIn(elsewhere, { sub: unique(), email, email_verified: true }, new Browser(), other);
    expect(await reaches({ token: foreign.token ?? '' })).toBe(false);

    expect((await enforce(of.id, false)).__typename).toBe('SetSsoEnforcedSuccess');
    expect(await reaches(member)).toBe(true);
  });

  test('needs a provider and a verified domain, and an owner', async () => {
    const { id } = await workspace(server.url, ada);
    expect((await enforce(id, true)).__typename).toBe('SsoNotReady');
    const of = await company();
    const admin = await memberOf(app(), { id: rowId('Workspace', of.id) }, 'ADMIN');
    expect((await enforce(of.id, true, admin)).__typename).toBe('Forbidden');
    await mutate('disableSsoConnection', { id: of.connectionId }, admin);
    expect((await enforce(of.id, true)).__typename).toBe('SsoNotReady');
  });

  test('keeps the last provider and the last verified domain, until it ends', async () => {
    const of = await company();
    const workspaceId = rowId('Workspace', of.id);
    const second = await verified(of.id, `${unique()}.example`);
    expect((await enforce(of.id, true)).__typename).toBe('SetSsoEnforcedSuccess');
    const remove = async (id: string) => (await mutate('removeSsoDomain', { id }, ada)).__typename;
    const disable = async () => (await mutate('disableSsoConnection', { id: of.connectionId }, ada)).__typename;
    expect(await disable()).toBe('SsoNotReady');
    expect(await remove(second.ssoDomain?.id ?? '')).toBe('RemoveSsoDomainSuccess');
    const [last] = await app().db.ssoDomain.findMany({ where: { workspaceId } });
    const lastId = globalId('SsoDomain', last?.id ?? '');
    expect(await remove(lastId)).toBe('SsoNotReady');
    expect(await app().db.ssoDomain.count({ where: { workspaceId } })).toBe(1);
    const connection = () => app().db.ssoConnection.findFirstOrThrow({ where: { workspaceId } });
    expect(await connection()).toMatchObject({ disabledAt: null, clientSecret: expect.any(String) });
    expect((await enforce(of.id, false)).__typename).toBe('SetSsoEnforcedSuccess');
    expect([await disable(), await remove(lastId)]).toEqual(['DisableSsoConnectionSuccess', 'RemoveSsoDomainSuccess']);
    expect(await connection()).toMatchObject({ disabledAt: expect.any(Date), clientSecret: null });
  });
});
