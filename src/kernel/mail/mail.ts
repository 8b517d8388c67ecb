import { z } from 'zod';
import type { Mail as Row } from '#prisma';
import { service, type App } from '../app.ts';
import { instanceWorkspaceId } from '../auth/instance.ts';
import type { Transaction } from '../db/transact.ts';
import { newId } from '../ids.ts';
import { parse } from '../input.ts';
import { defineJob } from '../jobs/define.ts';
import { defineRetention } from '../jobs/retention.ts';
import { defineSealedColumn } from '../sealing/columns.ts';
import { Sealing } from '../sealing/sealing.ts';
import { MailNotConfigured, MailRefused, Transport, type OutgoingMail } from './transport.ts';

/** How long the row of a mail is kept, sent or not. */
const keepDays = 7;

const recipientColumn = defineSealedColumn({ table: 'mail', column: 'recipient' });
const contentColumn = defineSealedColumn({ table: 'mail', column: 'content' });

const Content = z.object({ subject: z.string(), text: z.string() });

/** No line end, and nothing that somebody takes for one, ever gets into a header. */
const NewMail = z.object({
  to: z.email().max(320),
  subject: z
    .string()
    .min(1, 'must not be empty')
    .max(200)
    .regex(/^[^\p{Cc}\p{Cs}\p{Zl}\p{Zp}]*$/u, 'must be one line without control characters'),
  text: z
    .string()
    .min(1, 'must not be empty')
    .max(65_536)
    .transform((text) => text.replaceAll(/\r\n?/g, '\n'))
    .refine((text) => !/[^\P{Cc}\n\t]|\p{Cs}/u.test(text), 'must not have control characters'),
});

/** Sends a mail of the outbox. At least once: a worker that dies between the sending and the note of it sends it again. */
export const sendMail = defineJob({
  name: 'mail.send',
  payload: z.object({ id: z.uuid() }),
  // Within three hours: longer than greylisting lasts, and about as long as the links in these mails are good.
  attempts: 10,
  retryDelayS: 30,
  timeoutS: 120,
  // Its dead letters are for the operators, who can replay them.
  workspaceOf: () => instanceWorkspaceId,
  handle: ({ id }, { app, signal }) => app.use(Mail).deliver(id, signal),
});

/** Removes what is old from the outbox. */
defineRetention({
  name: 'mail.cleanUp',
  cron: '47 * * * *',
  async remove(app) {
    const before = new Date(Date.now() - keepDays * 24 * 3600 * 1000);
    const { count: mails } = await app.db.mail.deleteMany({ where: { createdAt: { lt: before } } });
    return { mails };
  },
});

/**
 * Mail to people, through an outbox: a mail leaves if and only if the transaction that asked for it commits. The only
 * writer of `mail`, where address, subject and text are sealed.
 */
export const Mail = service('mail', (app) => ({
  /**
   * Puts a mail into the outbox, in the caller's transaction; a worker sends it.
   * @param mail `to`: one address, ASCII; `subject`: one line, at most 200 characters; `text`: plain, at most 64 Ki characters
   * @returns id of the mail
   * @throws {MailNotConfigured} in production without SMTP_URL
   * @throws {ValidationError}
   */
  async send(tx: Transaction, mail: { to: string; subject: string; text: string }): Promise<string> {
    if (app.use(Transport).mode === 'refuses') throw new MailNotConfigured();
    const { to, ...content } = parse(NewMail, mail);
    const sealing = app.use(Sealing);
    const id = newId();
    await tx.db.mail.create({
      data: {
        id,
        recipient: await sealing.seal(to, recipientColumn.context(id)),
        content: await sealing.seal(JSON.stringify(content), contentColumn.context(id)),
      },
    });
    await app.jobs.enqueue(tx, sendMail, { id });
    return id;
  },

  /** Sends a mail, unless that was done or it is gone. What is refused for good is noted and given up. */
  async deliver(id: string, signal: AbortSignal): Promise<void> {
    const row = await app.db.mail.findUnique({ where: { id } });
    if (!row || row.sentAt || row.refusedAt) return;
    const [mail] = await opened(app, [row]);
    if (!mail) return;
    const transport = app.use(Transport);
    try {
      await transport.send(mail, signal);
    } catch (error) {
      if (!(error instanceof MailRefused)) throw error;
      app.log.error({ err: error, mail: id }, 'mail refused');
      await app.db.mail.update({ where: { id }, data: { refusedAt: new Date(), content: null } });
      return;
    }
    const content = transport.mode === 'keeps' ? {} : { content: null };
    await app.db.mail.update({ where: { id }, data: { sentAt: new Date(), ...content } });
  },

  /** Mails whose text is still there, newest first, of the last 1000. For development. */
  async outbox(filter: { to?: string | undefined } = {}): Promise<OutgoingMail[]> {
    const rows = await app.db.mail.findMany({
      where: { content: { not: null } },
      orderBy: [{ createdAt: 'desc' }, { id: 'desc' }],
      take: 1000,
    });
    const to = filter.to?.toLowerCase();
    return (await opened(app, rows)).filter((mail) => to === undefined || mail.to.toLowerCase() === to);
  },
}));

/** Those whose text is still there. */
async function opened(app: App, rows: readonly Row[]): Promise<OutgoingMail[]> {
  const sealing = app.use(Sealing);
  const mails = await Promise.all(
    rows.map(async ({ id, recipient, content, createdAt: at }) => {
      if (content === null) return [];
      const to = await sealing.openText(recipient, recipientColumn.context(id));
      const parsed = Content.parse(JSON.parse(await sealing.openText(content, contentColumn.context(id))));
      return [{ id, to, ...parsed, at }];
    }),
  );
  return mails.flat();
}
