import { z } from 'zod';

/** What this server acts on; everything else is only noted. */
export const handledEvents: ReadonlySet<string> = new Set(['push', 'pull_request']);

/** The most that GitHub sends, bytes. @see https://docs.github.com/en/webhooks/webhook-events-and-payloads */
export const maxBodyBytes = 25 * 2 ** 20;

/** How long the secret before stays good after a rotation, milliseconds. */
export const formerSecretMs = 24 * 3_600_000;

export const NewConnection = z.object({
  workspaceId: z.string(),
  repository: z.string().trim().max(200),
  token: z
    .string()
    .regex(/^[\x21-\x7e]{1,500}$/, 'must be a token of GitHub')
    .nullish(),
});

export const Redelivery = z.object({ id: z.string(), force: z.boolean().default(false) });

const text = (most: number) =>
  z.string().transform((given) => given.replaceAll('\0', '').toWellFormed().slice(0, most));

/** What every delivery may say; what is of another form is taken as not said. */
export const Envelope = z.object({
  action: text(60).nullish().catch(null),
  ref: text(300).nullish().catch(null),
  repository: z
    .object({ id: z.int().positive(), full_name: text(200) })
    .nullish()
    .catch(null),
  installation: z.object({ id: z.int().positive() }).nullish().catch(null),
});
export type Envelope = z.infer<typeof Envelope>;

/** A push. @see https://docs.github.com/en/webhooks/webhook-events-and-payloads#push */
export const PushEvent = z.object({
  ref: z
    .string()
    .max(300)
    .refine((ref) => ref.isWellFormed() && !ref.includes('\0')),
  after: z.string().regex(/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/),
  deleted: z.boolean().default(false),
  repository: z.object({ id: z.int().positive(), full_name: z.string(), fork: z.boolean().default(false) }),
});

/** For a person, on one line, without what changes how it is shown. */
const line = (most: number) =>
  z.string().transform((given) =>
    Array.from(
      given
        .slice(0, 4 * most)
        .toWellFormed()
        .replaceAll(/[\p{C}\p{Z}]+/gu, ' ')
        .trim(),
    )
      .slice(0, most)
      .join(''),
  );
const commitId = z.string().regex(/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/);
const someRepository = z.object({ id: z.int().positive() });

/**
 * An event of a pull request: each has all of it, as it is then.
 * @see https://docs.github.com/en/webhooks/webhook-events-and-payloads#pull_request
 */
export const PullRequestEvent = z.object({
  /** The commit before, of `synchronize`. */
  before: commitId.nullish().catch(null),
  pull_request: z.object({
    number: z
      .int()
      .positive()
      .max(2 ** 31 - 1),
    title: line(200),
    state: z.enum(['open', 'closed']),
    updated_at: z.iso.datetime({ offset: true }),
    // Null: it is gone.
    head: z.object({ sha: commitId, ref: line(200), repo: someRepository.nullish() }),
    base: z.object({ ref: z.string().max(300), repo: someRepository }),
  }),
  repository: z.object({ id: z.int().positive() }),
});

/** The branch that a push leaves with a commit; else why it does not concern anybody. */
export function branchOf(push: z.infer<typeof PushEvent>): { readonly branch: string } | { readonly ignored: string } {
  if (push.ref.startsWith('refs/tags/')) return { ignored: 'It is a tag.' };
  const branch = /^refs\/heads\/(.+)$/s.exec(push.ref)?.[1];
  if (branch === undefined) return { ignored: 'It is no branch.' };
  if (push.deleted || /^0+$/.test(push.after)) return { ignored: 'The branch was deleted.' };
  return { branch };
}
