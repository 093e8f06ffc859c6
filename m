2026-11-29 19:58:41,982 ERROR b: no such manifest; run the stage that writes it first
