import { defineEvent } from '../events/define.ts';

/** Data of a refusal: `count` of the same within a minute are one event. */
interface Counted {
  readonly count: number;
}

export const accessDenied = defineEvent<Counted & { verb: string; targetType?: string; targetId?: string }>(
  'access.denied',
  {
    subject: 'Workspace',
    description:
      'Somebody asked for what they may not do; equal ones of a minute are one event with a `count`. `targetType` and `targetId` tell the thing, of the first; `verb` is `*` where there were too many to tell apart. What strangers asked for is told in the log of the instance.',
    least: 'ADMIN',
  },
);

export const signInRefused = defineEvent<Counted & { method: string; reason: string; userId: string | null }>(
  'signIn.refused',
  {
    subject: 'Workspace',
    description:
      'Somebody did not get in; equal ones of a minute are one event with a `count`. `userId` is the account, where there is one. In the log of the instance only.',
    least: 'ADMIN',
  },
);

export const signedIn = defineEvent<{ method: string }>('user.signedIn', {
  subject: 'User',
  description: 'Somebody signed in. In the log of the instance only.',
  least: 'ADMIN',
});
