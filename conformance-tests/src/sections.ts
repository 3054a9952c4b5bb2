/** All tests: importing this registers them. */
import './sections/guarantees.ts';
import './sections/publishing.ts';
import './sections/subscribing.ts';
import './sections/settling.ts';
import './sections/retry.ts';
import './sections/dead-letters.ts';
import './sections/order.ts';
import './sections/delay-expiry.ts';
import './sections/idempotency.ts';
import './sections/life-cycle.ts';
import './sections/position-retention.ts';
import './sections/configuration.ts';
