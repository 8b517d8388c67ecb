import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { App } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { newId } from '#kernel/ids.ts';
import { jobTypes } from '#kernel/jobs/define.ts';
import { Mail } from '#kernel/mail/mail.ts';
import { MailNotConfigured } from '#kernel/mail/transport.ts';
import { answer, bodyOf, headersOf, receiver, type Receiver } from '../../integrations/smtp/receiver.ts';
import { dump, foundIn } from '../../support/dump.ts';
import { until } from '../../support/embedded.ts';
import { keptLog } from '../../support/http.ts';
import { startTestServer, type TestServer } from '../../support/server.ts';

const livenessMs = 60_000;
const mail = (token = randomBytes(12).toString('hex')) => ({
  token,
  to: `ada-${token.slice(0, 8)}@example.com`,
  subject: `Verify ${token.slice(0, 6)}`,
  text: `Hello,\r\nhttps://switchyard.example.com/verify#token=${token}`,
});
const queue = (app: App, one: { to: string; subject: string; text: string }): Promise<string> =>
  app.transact(system, (tx) => app.use(Mail).send(tx, one));
const row = (app: App, id: string) => app.db.mail.findUniqueOrThrow({ where: { id } });

/**
 * Makes the waiting tries of the job due now, which would take hours, and wakes the worker as pg-boss itself does when a
 * job is queued; otherwise it would look every two seconds.
 */
const hurry = (app: App) =>
  app.database.pool.query(
    `with due as (update pgboss.job set start_after = now() where name = 'job.mail.send' and state = 'retry' returning 1)
     select pg_notify('pgboss_' || left(encode(sha224('pgboss'), 'hex'), 24), 'job.mail.send') from due limit 1`,
  );

describe('with a mail server', () => {
  let behaviour: Parameters<typeof receiver>[0] = {};
  let server: TestServer;
  let post: Receiver;
  let app: App;
  const { log, lines } = keptLog('debug');
  beforeAll(async () => {
    post = await receiver({
      onRcptTo: (address, session, done) => (behaviour?.onRcptTo ?? ((_a, _s, next) => next()))(address, session, done),
    });
    // Both roles in one process, as by default.
    server = await startTestServer(
      {
        SWITCHYARD_PROCESS_DRIVER: 'false',
        SMTP_URL: `smtp://127.0.0.1:${post.port}`,
        MAIL_FROM: 'Switchyard <no-reply@example.org>',
      },
      { log },
    );
    ({ app } = server.running);
  });
  afterEach(() => {
    behaviour = {};
    post.received.splice(0);
  });
  afterAll(async () => {
    await server.stop();
    await post.close();
  });

  test('a mail is sent once its transaction has committed, and its text is forgotten', async () => {
    const one = mail();
    const id = await queue(app, one);
    await until('it is sent', async () => (await row(app, id)).sentAt !== null, livenessMs);
    expect(post.received).toMatchObject([{ to: [one.to], from: 'no-reply@example.org' }]);
    const raw = post.received[0]?.raw ?? '';
    expect(headersOf(raw).get('subject')).toBe(one.subject);
    expect(headersOf(raw).get('message-id')).toBe(`<${id}@example.org>`);
    expect(bodyOf(raw)).toContain(one.token);
    expect(await row(app, id)).toMatchObject({ content: null, refusedAt: null });
    expect(await app.use(Mail).outbox()).toEqual([]);
  });

  test('a mail of a transaction that is rolled back is never sent', async () => {
    const [lost, kept] = [mail(), mail()];
    await expect(
      app.transact(system, async (tx) => {
        await app.use(Mail).send(tx, lost);
        throw new Error('rolled back');
      }),
    ).rejects.toThrow('rolled back');
    await queue(app, kept);
    await until('the other one is sent', async () => post.received.length > 0, livenessMs);
    expect(post.received.flatMap(({ to }) => to)).toEqual([kept.to]);
  });

  test('neither address nor token is in the database, in a log, or in a dead letter: waiting, failing or sent', async () => {
    behaviour = { onRcptTo: (address, _s, done) => done(answer(450, `Come back later, <${address.address}>`)) };
    const one = mail();
    const id = await queue(app, one);
    expect(foundIn(await dump(server.database.url), one.token, one.to, one.subject)).toEqual([]);
    await until(
      'it failed',
      async () => lines.some(({ msg, job }) => msg === 'job failed' && job === 'mail.send'),
      livenessMs,
    );
    expect(foundIn(await dump(server.database.url), one.token, one.to, one.subject)).toEqual([]);
    behaviour = {};
    await until('it is sent', async () => (await hurry(app), (await row(app, id)).sentAt !== null), livenessMs);
    expect(foundIn(await dump(server.database.url), one.token, one.to, one.subject)).toEqual([]);
    expect(foundIn(JSON.stringify(lines), one.token, one.to, one.subject)).toEqual([]);
  });

  test('greylisting: a mail that is put off is sent by a later try, with the same id, once', async () => {
    let tries = 0;
    behaviour = { onRcptTo: (_a, _s, done) => done(++tries < 3 ? answer(451, '4.7.1 Greylisted') : null) };
    const id = await queue(app, mail());
    await until('it is sent', async () => (await hurry(app), (await row(app, id)).sentAt !== null), livenessMs);
    expect(tries).toBe(3);
    expect(post.received.map(({ raw }) => headersOf(raw).get('message-id'))).toEqual([`<${id}@example.org>`]);
  });

  test('a mail that is refused for good is not tried again', async () => {
    let tries = 0;
    behaviour = { onRcptTo: (_a, _s, done) => (tries++, done(answer(550, '5.1.1 Unknown'))) };
    const id = await queue(app, mail());
    await until('it is given up', async () => (await row(app, id)).refusedAt !== null, livenessMs);
    expect(await row(app, id)).toMatchObject({ content: null, sentAt: null });
    await app.use(Mail).deliver(id, new AbortController().signal);
    expect(tries).toBe(1);
    const { rows } = await app.database.pool.query<{ state: string }>(
      `select state from pgboss.job where name = 'job.mail.send' and data->'payload'->>'id' = $1 and state = 'retry'`,
      [id],
    );
    expect(rows).toEqual([]);
    expect(lines.some(({ msg, mail: of }) => msg === 'mail refused' && of === id)).toBe(true);
  });

  test('a job that comes twice sends once; one whose worker died before the note sends again, with the same id', async () => {
    const id = await queue(app, mail());
    await until('it is sent', async () => (await row(app, id)).sentAt !== null, livenessMs);
    const { signal } = new AbortController();
    await app.use(Mail).deliver(id, signal);
    await app.use(Mail).deliver('0190a7b2-0000-7000-8000-00000000dead', signal);
    expect(post.received).toHaveLength(1);
    // The note is lost.
    behaviour = { onRcptTo: (_a, _s, done) => done(answer(450, 'Later')) };
    const again = await queue(app, mail());
    const { content } = await row(app, again);
    behaviour = {};
    await until('it is sent', async () => (await hurry(app), (await row(app, again)).sentAt !== null), livenessMs);
    await app.db.mail.update({ where: { id: again }, data: { sentAt: null, content } });
    await app.use(Mail).deliver(again, signal);
    const [, first, second] = post.received.map(({ raw }) => headersOf(raw).get('message-id'));
    expect([first, second]).toEqual([`<${again}@example.org>`, `<${again}@example.org>`]);
  });

  test.each([
    [{ to: 'ada@example.com\r\nBcc: eve@example.net' }],
    [{ to: 'ada@example.com\n' }],
    [{ to: 'ada@example.com, eve@example.net' }],
    [{ to: 'Ada <ada@example.com>' }],
    [{ to: '' }],
    [{ subject: 'Hello\r\nBcc: eve@example.net' }],
    [{ subject: 'Hello\nthere' }],
    [{ subject: 'Hello\u2028there' }],
    [{ subject: 'Hello\u0000' }],
    [{ subject: 'Hello\u0085there' }],
    [{ subject: 'Hello \ud800' }],
    [{ subject: '' }],
    [{ subject: 'x'.repeat(201) }],
    [{ text: '' }],
    [{ text: 'a\u0000b' }],
    [{ text: 'x'.repeat(65_537) }],
  ])('what is malformed is refused before it is queued (%#)', async (wrong) => {
    const before = await app.db.mail.count();
    await expect(queue(app, { ...mail(), ...wrong })).rejects.toMatchObject({ code: 'VALIDATION_ERROR' });
    expect(await app.db.mail.count()).toBe(before);
  });

  test('mails go after a week, whatever became of them', async () => {
    const ids = [await queue(app, mail()), await queue(app, mail())];
    await until(
      'they are sent',
      async () => (await app.db.mail.count({ where: { sentAt: null, refusedAt: null } })) === 0,
      livenessMs,
    );
    await app.db.mail.update({
      where: { id: ids[0] ?? '' },
      data: { createdAt: new Date(Date.now() - 8 * 24 * 3600 * 1000) },
    });
    const job = jobTypes().get('mail.cleanUp');
    expect(job?.cron).toBeDefined();
    await job?.handle({} as never, { app, signal: AbortSignal.timeout(60_000), attempt: 1 });
    const left = (await app.db.mail.findMany({ select: { id: true } })).map(({ id }) => id);
    expect(left).toContain(ids[1]);
    expect(left).not.toContain(ids[0]);
  });

  test('a mail server that stays down: a dead letter of the instance, which can be replayed', async () => {
    await post.close();
    const one = mail();
    const id = await queue(app, one);
    const letters = () => app.db.deadLetter.findMany({ where: { job: 'mail.send' } });
    await until('it is given up', async () => (await hurry(app), (await letters()).length > 0), livenessMs);
    const [letter] = await letters();
    expect(letter).toMatchObject({ workspaceId: instanceWorkspaceId, payload: { id }, attempts: 10 });
    expect(letter?.error).toContain('ECONNREFUSED');
    expect(await row(app, id)).toMatchObject({ sentAt: null, refusedAt: null });
    expect(foundIn(await dump(server.database.url), one.token, one.to, one.subject)).toEqual([]);
    post = await receiver({}, post.port);
    const operator = { ...system, userId: newId(), roles: new Map([[instanceWorkspaceId, 'OWNER' as const]]) };
    await app.jobs.replay(app, { ...operator, kind: 'SESSION' }, letter?.id ?? '');
    await until('it is sent after all', async () => (await row(app, id)).sentAt !== null, livenessMs);
    expect(post.received.flatMap(({ to }) => to)).toEqual([one.to]);
  });
});

describe('without a mail server', () => {
  test('outside production a line in the log tells of it, without its text, which stays in the outbox', async () => {
    const { log, lines } = keptLog('info');
    const server = await startTestServer({ SWITCHYARD_ROLES: 'worker', SWITCHYARD_PROCESS_DRIVER: 'false' }, { log });
    try {
      const { app } = server.running;
      const [first, second] = [mail(), mail()];
      const ids = [await queue(app, first), await queue(app, second)];
      await until(
        'both are told of',
        async () => (await app.db.mail.count({ where: { sentAt: { not: null } } })) === 2,
        livenessMs,
      );
      const told = lines.filter(({ msg }) => msg.startsWith('mail'));
      expect(told.map(({ to, subject }) => `${String(to)} ${String(subject)}`).toSorted()).toEqual(
        [first, second].map(({ to, subject }) => `${to} ${subject}`).toSorted(),
      );
      expect(foundIn(JSON.stringify(lines), first.token, second.token)).toEqual([]);
      expect(foundIn(await dump(server.database.url), first.token, first.to, second.token)).toEqual([]);
      // The look would find it: the log has what it may have.
      expect(foundIn(JSON.stringify(lines), first.to, first.subject)).toEqual([first.to, first.subject]);
      const kept = await app.use(Mail).outbox();
      expect(kept.map(({ id }) => id)).toEqual(ids.toReversed());
      expect(kept[1]).toMatchObject({ to: first.to, subject: first.subject, text: first.text.replace('\r\n', '\n') });
      expect((await app.use(Mail).outbox({ to: first.to.toUpperCase() })).map(({ id }) => id)).toEqual([ids[0]]);
      expect(await app.use(Mail).outbox({ to: 'nobody@example.com' })).toEqual([]);
    } finally {
      await server.stop();
    }
  });

  test('in production it says so loudly, once, and sending is refused', async () => {
    const { log, lines } = keptLog('info');
    const server = await startTestServer(
      {
        NODE_ENV: 'production',
        SWITCHYARD_ROLES: 'worker',
        SWITCHYARD_PROCESS_DRIVER: 'false',
        PUBLIC_URL: 'https://switchyard.example.com',
        SESSION_SECRET: 's'.repeat(32),
        STORAGE_SECRET: 's'.repeat(32),
        SWITCHYARD_ENCRYPTION_KEYS: `k1:${randomBytes(32).toString('base64')}`,
      },
      { log },
    );
    try {
      const { app } = server.running;
      expect(lines.filter(({ level, msg }) => level >= 50 && msg.includes('SMTP_URL'))).toHaveLength(1);
      await expect(queue(app, mail())).rejects.toBeInstanceOf(MailNotConfigured);
      expect(await app.db.mail.count()).toBe(0);
    } finally {
      await server.stop();
    }
  });
});
