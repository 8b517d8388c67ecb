import { defineEvent } from '#kernel/events/define.ts';

export const applicationCreated = defineEvent('application.created', {
  subject: 'Application',
  description: 'The application was created.',
});
export const applicationStopped = defineEvent<{ releaseId: string }>('application.stopped', {
  subject: 'Application',
  description: 'Its address serves nothing any more; the release that served is kept.',
});
export const applicationAutoDeploySet = defineEvent<{ autoDeploy: boolean }>('application.autoDeploySet', {
  subject: 'Application',
  description: 'It was said whether pushes to its branch deploy it.',
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
