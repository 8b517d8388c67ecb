import { createHash, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { rowId } from '#kernel/graphql/global-id.ts';
import { apiKey, workspace } from '../../support/actors.ts';
import { data, send, type Auth } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';
import { statements } from '../../support/statements.ts';
import {
  account,
  ask,
  change,
  from,
  mail,
  mailsTo,
  mutate,
  other,
  password,
  refusal,
  reset,
  tokenIn,
  verification,
  type Account,
} from './support.ts';

/** Every derivation of a key from a password, by its work. */
const derived = vi.hoisted(() => [] as string[]);
vi.mock('node:crypto', async (original) => {
  const crypto = await original<typeof import('node:crypto')>();
  const argon2 = ((algorithm: string, parameters: { memory: number; passes: number }, done: never) => {
    derived.push(`${algorithm} ${parameters.memory} ${parameters.passes}`);
    return crypto.argon2(algorithm as never, parameters as never, done);
  }) as unknown as typeof crypto.argon2;
  return { ...crypto, argon2, default: { ...crypto, argon2 } };
});

/** What other threads of this process said. */
const estimates: unknown[] = [];
process.on('worker', (thread) => thread.on('message', (said) => estimates.push(said)));

/** Stands in for the list of breached passwords. */
const breached = 'nineteen sleepy walruses';
let asked: string[] = [];
let answer: 'list' | 'error' | 'silence' = 'list';
const breachList = createServer((req, res) => {
  asked.push(req.url ?? '');
  if (answer === 'silence') return;
  if (answer === 'error') {
    res.writeHead(503).end();
    return;
  }
  const hash = createHash('sha1').update(breached).digest('hex').toUpperCase();
  const mine = req.url?.startsWith(`/range/${hash.slice(0, 5)}`);
  res.end(`${'0'.repeat(35)}:0\r\n${mine ? `${hash.slice(5)}:1234` : `${'F'.repeat(35)}:1`}`);
});

let server: TestServer;
beforeAll(async () => {
  await new Promise<void>((resolve) => breachList.listen(0, '127.0.0.1', resolve));
  server = await startTestServer({
    TRUST_PROXY: '1',
    APP_URL: 'https://app.example.com/start',
    SWITCHYARD_BREACHED_PASSWORDS_URL: `http://127.0.0.1:${(breachList.address() as AddressInfo).port}`,
  });
});
afterAll(async () => {
  await server.stop();
  breachList.closeAllConnections();
  breachList.close();
});
afterEach(() => {
  answer = 'list';
});

const app = () => server.running.app;
const signIn = (email: string, word: string, address = '198.51.100.1') =>
  mutate(server, 'signIn', { email, password: word }, {}, 'token', from(address));
const isSignedIn = async (auth: Auth): Promise<boolean> =>
  (await send<{ viewer: object | null }>(server.url, '{ viewer { id } }', {}, auth)).data?.viewer != null;
const viewer = async (auth: Auth) =>
  (
    await data<{ viewer: { email: string; emailVerified: boolean } }>(
      server.url,
      '{ viewer { email emailVerified } }',
      {},
      auth,
    )
  ).viewer;
const signedInAgo = (auth: Account, ms: number) =>
  app().db.session.updateMany({
    where: { userId: rowId('User', auth.id) },
    data: { signedInAt: new Date(Date.now() - ms) },
  });
const expireTokens = (auth: Account) =>
  app().db.mailToken.updateMany({ where: { userId: rowId('User', auth.id) }, data: { expiresAt: new Date() } });
let places = 0;
/** An address that nobody used before. */
const somewhere = () => `198.51.${100 + Math.floor(++places / 250)}.${(places % 250) + 2}`;

describe('passwords', () => {
  test.each([
    ['aaaaaaaaaaaaaaaa', /Repeated characters/],
    ['passwordpassword', /Repeated/],
    ['qwertyuiop123456', /commonly used/],
    ['x'.repeat(200), /Repeated/],
  ])('%s is refused, with what to do about it', async (weak, advice) => {
    const said = await mutate(server, 'signUp', {
      email: `weak-${weak.length}@example.com`,
      password: weak,
      name: 'W',
    });
    expect(said).toMatchObject({ __typename: 'ValidationError', issues: [{ path: 'password' }] });
    expect(said['message']).toMatch(advice);
  });

  test('what is known of the person counts against it', async () => {
    const email = 'wolfgang.amadeus@example.com';
    for (const own of [email, 'wolfgang.amadeus']) {
      const said = await mutate(server, 'signUp', { email, password: own.padEnd(12, '1'), name: 'Wolfgang Amadeus' });
      expect(said).toMatchObject({ __typename: 'ValidationError', issues: [{ path: 'password' }] });
    }
  });

  test('it is estimated by a thread of its own, not on the event loop, however long it is', async () => {
    const word = Array.from({ length: 200 }, (_, i) => String.fromCharCode(33 + ((i * 7919) % 94))).join('');
    estimates.length = 0;
    const said = await mutate(server, 'signUp', { email: 'long@example.com', password: word, name: 'L' });
    expect(said.__typename).toBe('SignUpSuccess');
    expect(estimates).toEqual([{ id: expect.any(Number), score: 4, advice: '' }]);
  });

  test('one that was in a breach is refused; five digits of its hash leave the server', async () => {
    asked = [];
    const said = await mutate(server, 'signUp', { email: 'breach@example.com', password: breached, name: 'B' });
    expect(said).toMatchObject({ __typename: 'ValidationError', issues: [{ path: 'password' }] });
    expect(said['message']).toMatch(/breaches/);
    expect(asked).toEqual([expect.stringMatching(/^\/range\/[0-9A-F]{5}(\?mode=sha1)?$/)]);
  });

  test.each(['error', 'silence'] as const)('while the list answers with %s, passwords pass', async (how) => {
    answer = how;
    const said = await mutate(server, 'signUp', { email: `${how}@example.com`, password: breached, name: 'B' });
    expect(said.__typename).toBe('SignUpSuccess');
  });

  test('changing one ends every other session, and tells its owner', async () => {
    const ada = await account(server);
    const elsewhere = await signIn(ada.email, password);
    const input = { currentPassword: password, newPassword: other };
    expect((await mutate(server, 'changePassword', input, ada)).__typename).toBe('ChangePasswordSuccess');
    expect(await isSignedIn(ada)).toBe(true);
    expect(await isSignedIn({ token: String(elsewhere['token']) })).toBe(false);
    expect((await signIn(ada.email, password)).__typename).toBe('SignInRefused');
    expect((await signIn(ada.email, other)).__typename).toBe('SignInSuccess');
    await mail(server, ada.email, /password was changed/);
  });

  test('changing one needs the old one, and a good new one', async () => {
    const ada = await account(server);
    const to = (currentPassword: string, newPassword: string) =>
      mutate(server, 'changePassword', { currentPassword, newPassword }, ada);
    expect(await to('not my password at all', other)).toMatchObject({
      __typename: 'ReauthenticationRequired',
      proof: 'PASSWORD',
    });
    expect(await to(password, 'aaaaaaaaaaaaaaaa')).toMatchObject({ issues: [{ path: 'newPassword' }] });
    expect(await to(password, 'short')).toMatchObject({ issues: [{ path: 'newPassword' }] });
    expect((await signIn(ada.email, password)).__typename).toBe('SignInSuccess');
  });

  test('a stolen session cannot guess the password for long', async () => {
    const ada = await account(server);
    const guess = () => mutate(server, 'changePassword', { currentPassword: 'a guess', newPassword: other }, ada);
    for (let i = 0; i < 10; i++) expect((await guess()).__typename).toBe('ReauthenticationRequired');
    expect((await guess()).__typename).toBe('RateLimited');
  });

  test('of two changes at once, one counts', async () => {
    const ada = await account(server);
    const words = [other, 'seven quiet lighthouse keepers'];
    const answers = await Promise.all(
      words.map((newPassword) => mutate(server, 'changePassword', { currentPassword: password, newPassword }, ada)),
    );
    expect(answers.map(({ __typename }) => __typename).toSorted()).toEqual([
      'ChangePasswordSuccess',
      'ReauthenticationRequired',
    ]);
  });

  test('who has none sets one by mail, not by a session', async () => {
    const ada = await account(server);
    await app().db.user.update({ where: { email: ada.email }, data: { passwordHash: null } });
    const input = { currentPassword: password, newPassword: other };
    expect((await mutate(server, 'changePassword', input, ada)).__typename).toBe('NoPassword');
    await mutate(server, 'requestPasswordReset', { email: ada.email }, {}, '', from(somewhere()));
    const token = tokenIn(await mail(server, ada.email, reset));
    expect((await mutate(server, 'resetPassword', { token, newPassword: other })).__typename).toBe(
      'ResetPasswordSuccess',
    );
    expect((await signIn(ada.email, other)).__typename).toBe('SignInSuccess');
  });
});

describe('verifying an address', () => {
  test('signing up mails a link, good once', async () => {
    const ada = await account(server);
    expect(await viewer(ada)).toEqual({ email: ada.email, emailVerified: false });
    const sent = await mail(server, ada.email, verification);
    expect(sent.text).toContain('https://app.example.com/start/verify-email#token=');
    const input = { token: tokenIn(sent) };
    expect((await mutate(server, 'verifyEmail', input)).__typename).toBe('VerifyEmailSuccess');
    expect((await viewer(ada)).emailVerified).toBe(true);
    expect((await mutate(server, 'verifyEmail', input)).__typename).toBe('TokenRefused');
  });

  test('only a hash of the secret is kept', async () => {
    const ada = await account(server);
    const token = tokenIn(await mail(server, ada.email, verification));
    const rows = await app().db.mailToken.findMany({ where: { email: ada.email } });
    expect(rows).toHaveLength(1);
    expect(JSON.stringify(rows)).not.toContain(token);
  });

  test('a newer link ends the older one', async () => {
    const ada = await account(server);
    const first = tokenIn(await mail(server, ada.email, verification));
    expect((await mutate(server, 'resendVerification', null, ada)).__typename).toBe('ResendVerificationSuccess');
    const second = tokenIn(await mail(server, ada.email, verification, 2));
    expect((await mutate(server, 'verifyEmail', { token: first })).__typename).toBe('TokenRefused');
    expect((await mutate(server, 'verifyEmail', { token: second })).__typename).toBe('VerifyEmailSuccess');
    // Once verified, there is nothing to send.
    await mutate(server, 'resendVerification', null, ada);
    expect((await mailsTo(server, ada.email)).filter(({ subject }) => verification.test(subject))).toHaveLength(2);
  });

  test('an old link, one for another purpose, and what is none', async () => {
    const ada = await account(server);
    const token = tokenIn(await mail(server, ada.email, verification));
    expect((await mutate(server, 'resetPassword', { token, newPassword: other })).__typename).toBe('TokenRefused');
    await expireTokens(ada);
    for (const bad of [token, 'x', `${token}x`, token.slice(1), '%00', `${token}\n`])
      expect((await mutate(server, 'verifyEmail', { token: bad })).__typename).toBe('TokenRefused');
    for (const bad of ['', 'x'.repeat(10_000)])
      expect((await mutate(server, 'verifyEmail', { token: bad })).__typename).toBe('ValidationError');
    expect((await viewer(ada)).emailVerified).toBe(false);
  });

  test('of two that follow a link at once, one is told that it worked', async () => {
    const ada = await account(server);
    const token = tokenIn(await mail(server, ada.email, verification));
    const answers = await Promise.all([1, 2, 3, 4].map(() => mutate(server, 'verifyEmail', { token })));
    expect(answers.filter(({ __typename }) => __typename === 'VerifyEmailSuccess')).toHaveLength(1);
  });

  test('nobody makes themselves verified by more input', async () => {
    const extra = await ask(server, 'signUp', {
      email: 'm@example.com',
      password,
      name: 'M',
      emailVerifiedAt: '2020-01-01',
    });
    expect(extra.errors?.[0]?.message).toMatch(/not defined by type/);
  });

  test('an address that is taken is told, as the documents say', async () => {
    const ada = await account(server);
    const again = await mutate(server, 'signUp', { email: ada.email.toUpperCase(), password, name: 'Eve' });
    expect(again.__typename).toBe('Conflict');
  });
});

describe('changing the address', () => {
  test('takes effect when the new one is verified, and tells the old one', async () => {
    const ada = await account(server);
    const newEmail = `new-${ada.email}`;
    expect((await mutate(server, 'changeEmail', { newEmail, password }, ada)).__typename).toBe('ChangeEmailSuccess');
    expect(await viewer(ada)).toEqual({ email: ada.email, emailVerified: false });
    const token = tokenIn(await mail(server, newEmail, change));
    expect((await mutate(server, 'verifyEmail', { token })).__typename).toBe('VerifyEmailSuccess');
    expect(await viewer(ada)).toEqual({ email: newEmail, emailVerified: true });
    expect((await mail(server, ada.email, /address was changed/)).text).toContain(newEmail);
    expect((await signIn(newEmail, password)).__typename).toBe('SignInSuccess');
    expect((await signIn(ada.email, password)).__typename).toBe('SignInRefused');
  });

  test('links to the old address are void from then on', async () => {
    const ada = await account(server);
    const old = tokenIn(await mail(server, ada.email, verification));
    await mutate(server, 'requestPasswordReset', { email: ada.email }, {}, '', from(somewhere()));
    const oldReset = tokenIn(await mail(server, ada.email, reset));
    const newEmail = `moved-${ada.email}`;
    await mutate(server, 'changeEmail', { newEmail, password }, ada);
    await mutate(server, 'verifyEmail', { token: tokenIn(await mail(server, newEmail, change)) });
    expect((await mutate(server, 'verifyEmail', { token: old })).__typename).toBe('TokenRefused');
    const input = { token: oldReset, newPassword: other };
    expect((await mutate(server, 'resetPassword', input)).__typename).toBe('TokenRefused');
  });

  test('needs the password; without one, a young sign-in', async () => {
    const ada = await account(server);
    const to = (input: object) => mutate(server, 'changeEmail', { newEmail: `n-${ada.email}`, ...input }, ada);
    expect(await to({})).toMatchObject({ __typename: 'ReauthenticationRequired', proof: 'PASSWORD' });
    expect(await to({ password: 'wrong' })).toMatchObject({ proof: 'PASSWORD' });
    await app().db.user.update({ where: { email: ada.email }, data: { passwordHash: null } });
    await signedInAgo(ada, 11 * 60_000);
    expect(await to({})).toMatchObject({ __typename: 'ReauthenticationRequired', proof: 'SIGN_IN' });
    expect(await to({ password })).toMatchObject({ __typename: 'ReauthenticationRequired', proof: 'SIGN_IN' });
    // A renewed session is as old as its sign-in.
    const renewed = await mutate(server, 'refreshSession', null, ada, 'token');
    const token = String(renewed['token']);
    const input = { newEmail: `n-${ada.email}` };
    expect((await mutate(server, 'changeEmail', input, { token })).__typename).toBe('ReauthenticationRequired');
    await signedInAgo(ada, 9 * 60_000);
    expect((await to({})).__typename).toBe('ChangeEmailSuccess');
  });

  test('not to an address that somebody has, nor gets in the meantime', async () => {
    const [ada, bob] = [await account(server), await account(server, 'Bob')];
    const taken = { newEmail: bob.email, password };
    expect((await mutate(server, 'changeEmail', taken, ada)).__typename).toBe('Conflict');
    const newEmail = `race-${ada.email}`;
    await mutate(server, 'changeEmail', { newEmail, password }, ada);
    const token = tokenIn(await mail(server, newEmail, change));
    await mutate(server, 'signUp', { email: newEmail, password, name: 'Eve' });
    expect((await mutate(server, 'verifyEmail', { token })).__typename).toBe('Conflict');
    expect((await viewer(ada)).email).toBe(ada.email);
  });
});

describe('resetting a password', () => {
  const request = (email: string, address = somewhere()) =>
    ask(server, 'requestPasswordReset', { email }, {}, 'ok', from(address));

  test('ends every session, and verifies the address', async () => {
    const ada = await account(server);
    await request(ada.email);
    const sent = await mail(server, ada.email, reset);
    expect(sent.text).toContain('https://app.example.com/start/reset-password#token=');
    const input = { token: tokenIn(sent), newPassword: other };
    expect((await mutate(server, 'resetPassword', input)).__typename).toBe('ResetPasswordSuccess');
    expect(await isSignedIn(ada)).toBe(false);
    expect((await signIn(ada.email, password)).__typename).toBe('SignInRefused');
    const again = await signIn(ada.email, other);
    expect((await viewer({ token: String(again['token']) })).emailVerified).toBe(true);
    expect((await mutate(server, 'resetPassword', input)).__typename).toBe('TokenRefused');
  });

  test('is answered alike, with the same statements, whether or not there is an account', async () => {
    const ada = await account(server);
    const seen: unknown[] = [];
    for (const email of [ada.email, 'nobody-at-all@example.com']) {
      const address = somewhere();
      const texts = await statements(app().database.pool, async () => {
        const { data: said, errors, status } = await request(email, address);
        seen.push({ said, errors, status });
      });
      expect(texts.filter((text) => /app_user/.test(text))).toEqual([]);
    }
    expect(seen[0]).toEqual(seen[1]);
    await mail(server, ada.email, reset);
    expect(await mailsTo(server, 'nobody-at-all@example.com')).toEqual([]);
    const { rows } = await app().database.pool.query<{ data: object }>(
      `select data from pgboss.job where name = 'job.identity.sendPasswordReset'`,
    );
    expect(rows.length).toBeGreaterThan(1);
    // Not even the queue says for whom.
    expect(JSON.stringify(rows)).not.toContain('@example.com');
  });

  test('of two at once with one link, one is done; a weak password does not use the link up', async () => {
    const ada = await account(server);
    await request(ada.email);
    const token = tokenIn(await mail(server, ada.email, reset));
    const weak = await mutate(server, 'resetPassword', { token, newPassword: 'aaaaaaaaaaaaaaaa' });
    expect(weak).toMatchObject({ __typename: 'ValidationError', issues: [{ path: 'newPassword' }] });
    const words = [other, 'seven quiet lighthouse keepers'];
    const answers = await Promise.all(
      words.map((newPassword) => mutate(server, 'resetPassword', { token, newPassword })),
    );
    const done = answers.map(({ __typename }) => __typename === 'ResetPasswordSuccess');
    expect(done.filter(Boolean)).toHaveLength(1);
    const [good, bad] = done[0] ? words : words.toReversed();
    expect((await signIn(ada.email, bad ?? '')).__typename).toBe('SignInRefused');
    expect((await signIn(ada.email, good ?? '')).__typename).toBe('SignInSuccess');
  });

  test('an expired link, and a replaced one', async () => {
    const ada = await account(server);
    await request(ada.email);
    const first = tokenIn(await mail(server, ada.email, reset));
    await request(ada.email);
    const second = tokenIn(await mail(server, ada.email, reset, 2));
    const by = (token: string) => mutate(server, 'resetPassword', { token, newPassword: other });
    expect((await by(first)).__typename).toBe('TokenRefused');
    await expireTokens(ada);
    expect((await by(second)).__typename).toBe('TokenRefused');
    expect(await isSignedIn(ada)).toBe(true);
  });

  test('of an account whose address was not verified ends the keys that somebody made with it', async () => {
    const squatter = await account(server);
    const home = await workspace(server.url, squatter);
    const key = await apiKey(server.url, squatter, home.id, 'OWNER');
    await app().db.externalIdentity.create({
      data: { id: crypto.randomUUID(), userId: rowId('User', squatter.id), provider: 'github', subject: squatter.id },
    });
    await request(squatter.email);
    const token = tokenIn(await mail(server, squatter.email, reset));
    await mutate(server, 'resetPassword', { token, newPassword: other });
    expect(await isSignedIn(key)).toBe(false);
    expect(await app().db.externalIdentity.count({ where: { userId: rowId('User', squatter.id) } })).toBe(0);
    const told = await app().db.event.findMany({
      where: { subjectId: rowId('User', squatter.id) },
      orderBy: { seq: 'asc' },
      select: { type: true },
    });
    expect(told.map(({ type }) => type).slice(-3)).toEqual([
      'user.takenOver',
      'user.emailVerified',
      'user.passwordChanged',
    ]);
  });

  test('is limited by account and by network, whether or not there is an account', async () => {
    const ada = await account(server);
    for (const email of [ada.email, 'not-there@example.com']) {
      const answers: (string | undefined)[] = [];
      for (let i = 0; i < 6; i++) {
        const { data: said } = await request(email);
        answers.push(said?.['requestPasswordReset']?.__typename);
      }
      expect(answers).toEqual([...Array.from({ length: 5 }, () => 'RequestPasswordResetSuccess'), 'RateLimited']);
    }
    const address = somewhere();
    for (let i = 0; i < 20; i++) await request(`n${i}@example.com`, address);
    const { data: said } = await request('n21@example.com', address);
    expect(said?.['requestPasswordReset']?.__typename).toBe('RateLimited');
  });
});

describe('signing in', () => {
  test('an unknown address and a wrong password get the same answer, after the same work', async () => {
    const ada = await account(server);
    await app().db.user.update({
      where: { email: (await account(server, 'Sso')).email },
      data: { passwordHash: null },
    });
    const sso = await app().db.user.findFirstOrThrow({ where: { name: 'Sso' } });
    const seen: { said: object; texts: string[]; work: string[] }[] = [];
    for (const email of [ada.email, 'nobody@example.com', sso.email]) {
      derived.length = 0;
      let said: object = {};
      const texts = await statements(app().database.pool, async () => {
        said = await signIn(email, 'a password that is wrong', somewhere());
      });
      // Without what the worker of this process does besides.
      seen.push({ said, texts: texts.filter((text) => /app_user|throttle|session/.test(text)), work: [...derived] });
    }
    expect(seen[0]).toMatchObject({
      said: { __typename: 'SignInRefused' },
      work: [`argon2id ${server.env['SWITCHYARD_PASSWORD_MEMORY_KIB']} 2`],
    });
    expect(seen[1]).toEqual(seen[0]);
    expect(seen[2]).toEqual(seen[0]);
  });

  test('always opens a session of its own, whatever the request came with', async () => {
    const [ada, eve] = [await account(server), await account(server, 'Eve')];
    const sessionOf = async (auth: Auth) =>
      (await app().actors.authenticate({ session: auth.token })).credentialId ?? '';
    const planted = await sessionOf(eve);
    const input = { email: ada.email, password };
    const first = await mutate(server, 'signIn', input, eve, 'token');
    const second = await mutate(server, 'signIn', input, { token: String(first['token']) }, 'token');
    const ids = [
      planted,
      await sessionOf(ada),
      await sessionOf({ token: String(first['token']) }),
      await sessionOf({ token: String(second['token']) }),
    ];
    expect(new Set(ids).size).toBe(4);
    // The planted one did not become hers.
    const row = await app().db.session.findUniqueOrThrow({ where: { id: planted } });
    expect(row.userId).toBe(rowId('User', eve.id));
  });

  test('guesses from one place at one account are stopped; the owner gets in from elsewhere', async () => {
    const ada = await account(server);
    const [bad, good] = [somewhere(), somewhere()];
    for (let i = 0; i < 8; i++) expect((await signIn(ada.email, 'guess', bad)).__typename).toBe('SignInRefused');
    const stopped = await signIn(ada.email, 'guess', bad);
    expect(stopped).toMatchObject({ __typename: 'RateLimited', resetAt: expect.any(String) });
    expect(Date.parse(String(stopped['resetAt']))).toBeGreaterThan(Date.now());
    // Not even with the right one: it could be a guess.
    expect((await signIn(ada.email, password, bad)).__typename).toBe('RateLimited');
    expect((await signIn(ada.email, password, good)).__typename).toBe('SignInSuccess');
    // Unknown addresses are limited alike.
    const unknown = 'never-registered@example.com';
    const answers = [];
    for (let i = 0; i < 9; i++) answers.push((await signIn(unknown, 'guess', good)).__typename);
    expect(answers).toEqual([...Array.from({ length: 8 }, () => 'SignInRefused'), 'RateLimited']);
  });

  test('guesses from many places are stopped, but not the owner where they were before', async () => {
    const ada = await account(server);
    const home = somewhere();
    expect((await signIn(ada.email, password, home)).__typename).toBe('SignInSuccess');
    for (let i = 0; i < 50; i++) await signIn(ada.email, 'guess', somewhere());
    expect((await signIn(ada.email, 'guess', somewhere())).__typename).toBe('RateLimited');
    expect((await signIn(ada.email, password, somewhere())).__typename).toBe('RateLimited');
    expect((await signIn(ada.email, password, home)).__typename).toBe('SignInSuccess');
    // Guessing goes on meanwhile, and changes nothing.
    await signIn(ada.email, 'guess', somewhere());
    expect((await signIn(ada.email, password, home)).__typename).toBe('SignInSuccess');
    // A reset by mail opens all other places.
    await mutate(server, 'requestPasswordReset', { email: ada.email }, {}, '', from(somewhere()));
    const token = tokenIn(await mail(server, ada.email, reset));
    await mutate(server, 'resetPassword', { token, newPassword: other });
    expect((await signIn(ada.email, other, somewhere())).__typename).toBe('SignInSuccess');
  });

  test('one place cannot try many accounts, and good passwords do not count', async () => {
    const ada = await account(server);
    const place = somewhere();
    for (let i = 0; i < 49; i++) await signIn(`spray-${i}@example.com`, 'guess', place);
    for (let i = 0; i < 3; i++) expect((await signIn(ada.email, password, place)).__typename).toBe('SignInSuccess');
    expect((await signIn('spray-50@example.com', 'guess', place)).__typename).toBe('SignInRefused');
    expect((await signIn('spray-51@example.com', 'guess', place)).__typename).toBe('RateLimited');
  });

  test('accounts are made so many an hour by one network', async () => {
    const few = await startTestServer({ SWITCHYARD_ROLES: 'api', TRUST_PROXY: '1', SWITCHYARD_SIGN_UPS_PER_HOUR: '2' });
    try {
      const make = (i: number, address: string) =>
        mutate(few, 'signUp', { email: `a${i}@example.com`, password, name: 'A' }, {}, '', from(address));
      expect((await make(1, '2001:db8:1:2::1')).__typename).toBe('SignUpSuccess');
      expect((await make(2, '2001:db8:1:2::2')).__typename).toBe('SignUpSuccess');
      expect((await make(3, '2001:db8:1:2::3')).__typename).toBe('RateLimited');
      expect((await make(3, '2001:db8:1:3::3')).__typename).toBe('SignUpSuccess');
    } finally {
      await few.stop();
    }
  });
});

describe('sessions', () => {
  const fields = 'id method address userAgent createdAt lastSeenAt expiresAt signedInAt current';
  interface Listed {
    readonly id: string;
    readonly address: string;
    readonly current: boolean;
  }
  const sessions = async (auth: Auth) =>
    (await data<{ viewer: { sessions: Listed[] } }>(server.url, `{ viewer { sessions { ${fields} } } }`, {}, auth))
      .viewer.sessions;

  test('are listed, newest first, with the one that asks; and ended one by one', async () => {
    const ada = await account(server, 'Ada', from('198.51.100.200'));
    const phone = await signIn(ada.email, password, '198.51.100.201');
    const listed = await sessions(ada);
    expect(listed).toMatchObject([
      { method: 'PASSWORD', address: '198.51.100.201', current: false },
      { method: 'PASSWORD', address: '198.51.100.200', current: true },
    ]);
    const input = { id: listed[0]?.id };
    expect((await mutate(server, 'endSession', input, ada)).__typename).toBe('EndSessionSuccess');
    expect(await isSignedIn({ token: String(phone['token']) })).toBe(false);
    expect(await sessions(ada)).toHaveLength(1);
    expect((await mutate(server, 'endSession', input, ada)).__typename).toBe('NotFound');
  });

  test("are nobody else's", async () => {
    const [ada, eve] = [await account(server), await account(server, 'Eve')];
    const [one] = await sessions(ada);
    expect(await refusal(server, 'endSession', { id: one?.id }, eve)).toBe('NOT_FOUND');
    expect(await refusal(server, 'endSession', { id: ada.id }, ada)).toBe('NOT_FOUND');
    expect(await isSignedIn(ada)).toBe(true);
    const home = await workspace(server.url, ada);
    const key = await apiKey(server.url, ada, home.id, 'OWNER');
    const node = `query ($id: ID!) { node(id: $id) { ... on Session { address } } }`;
    for (const auth of [eve, key])
      expect((await send<{ node: unknown }>(server.url, node, { id: one?.id }, auth)).data?.node ?? null).toBeNull();
    expect(await data(server.url, node, { id: one?.id }, ada)).toMatchObject({ node: { address: expect.any(String) } });
  });
});

describe('in production without a mail server', () => {
  test('people get in; what needs mail says that there is none', async () => {
    const mute = await startTestServer({
      NODE_ENV: 'production',
      SWITCHYARD_ROLES: 'api',
      SESSION_SECRET: 's'.repeat(32),
      STORAGE_SECRET: 't'.repeat(32),
      SWITCHYARD_ENCRYPTION_KEYS: `k1:${randomBytes(32).toString('base64')}`,
      SWITCHYARD_PROCESS_DRIVER: 'false',
    });
    try {
      const ada = await account(mute);
      const none = { __typename: 'MailNotConfigured' };
      expect(await mutate(mute, 'resendVerification', null, ada)).toMatchObject(none);
      expect(await mutate(mute, 'changeEmail', { newEmail: 'x@example.com', password }, ada)).toMatchObject(none);
      for (const email of [ada.email, 'nobody@example.com'])
        expect(await mutate(mute, 'requestPasswordReset', { email })).toMatchObject(none);
      const input = { currentPassword: password, newPassword: other };
      expect((await mutate(mute, 'changePassword', input, ada)).__typename).toBe('ChangePasswordSuccess');
    } finally {
      await mute.stop();
    }
  });
});

describe('what is for people', () => {
  test('no key does', async () => {
    const ada = await account(server);
    const home = await workspace(server.url, ada);
    const key = await apiKey(server.url, ada, home.id, 'OWNER');
    const verbs: [string, object | null][] = [
      ['changePassword', { currentPassword: password, newPassword: other }],
      ['changeEmail', { newEmail: 'x@example.com', password }],
      ['resendVerification', null],
      ['endSession', { id: ada.id }],
      ['updateProfile', { name: 'Eve' }],
      ['deleteMyAccount', { password }],
      ['signOutEverywhere', null],
    ];
    for (const [name, input] of verbs) {
      expect([name, await refusal(server, name, input, key)]).toEqual([name, 'FORBIDDEN']);
      expect([name, await refusal(server, name, input)]).toEqual([name, 'UNAUTHENTICATED']);
    }
    expect(await isSignedIn(ada)).toBe(true);
  });

  test('the log tells who changed what, by ids alone', async () => {
    const ada = await account(server);
    await mutate(server, 'verifyEmail', { token: tokenIn(await mail(server, ada.email, verification)) });
    await mutate(server, 'changePassword', { currentPassword: password, newPassword: other }, ada);
    const subjectId = rowId('User', ada.id);
    await until('the log has it', async () => (await app().db.event.count({ where: { subjectId } })) >= 4);
    const events = await app().db.event.findMany({ where: { subjectId }, orderBy: { seq: 'asc' } });
    expect(events.map(({ type, actorId }) => [type, actorId])).toEqual([
      ['user.signedUp', subjectId],
      ['user.signedIn', subjectId],
      ['user.emailVerified', subjectId],
      ['user.passwordChanged', subjectId],
    ]);
    expect(
      JSON.stringify(events, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value)),
    ).not.toContain('@');
  });
});
