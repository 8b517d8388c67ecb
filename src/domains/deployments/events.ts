import { defineEvent } from '#kernel/events/define.ts';

export const applicationCreated = defineEvent('application.created', {
  subject: 'Application',
  description: 'The application was created.',
});
export const applicationStopped = defineEvent<{ releaseId: string }>('application.stopped', {
  subject: 'Application',
  description: 'Its address serves nothing any more; the release that served is kept.',
});
export const releaseActivated = defineEvent<{ releaseId: string; previousReleaseId: string | null }>(
  'application.released',
  {
    subject: 'Application',
    description: 'Its address serves another release.',
  },
);
export const instanceRestarted = defineEvent<{ releaseId: string }>('application.restarted', {
  subject: 'Application',
  description: 'The instance that serves had died and was started again.',
});
export const alertRuleSet = defineEvent<{ ruleId: string; condition: string; threshold: number; windowS: number }>(
  'application.alertRuleSet',
  {
    subject: 'Application',
    description: 'A rule tells people of a condition of it.',
  },
);
export const alertRuleDeleted = defineEvent<{ ruleId: string; condition: string }>('application.alertRuleDeleted', {
  subject: 'Application',
  description: 'A rule does not tell of a condition of it any more.',
});
